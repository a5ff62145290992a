// Answers each request with its pid, on PORT. Asked to stop, it answers what its clients still ask, and ends with the last of them.
// Where there is a file "broken-PORT" in its folder, it fails under impetusd.
'use strict'
const fs = require('node:fs')
const http = require('node:http')

if (process.env.IMPETUSD_NAME && fs.existsSync(`broken-${process.env.PORT}`)) process.exit(3)

let connections = 0
let leaving = false
const server = http.createServer((request, response) => {
  const body = String(process.pid)
  response.shouldKeepAlive &&= !leaving
  response.writeHead(200, { 'content-length': body.length })
  response.end(body)
})
server.on('connection', (connection) => {
  connections += 1
  connection.on('close', () => {
    connections -= 1
    if (leaving && !connections) process.exit(0)
  })
})
for (const name of ['SIGINT', 'SIGTERM']) {
  process.on(name, () => {
    leaving = true
    if (!connections) process.exit(0)
  })
}
server.listen(Number(process.env.PORT))
