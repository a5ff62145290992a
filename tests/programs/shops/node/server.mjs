// Made for PM2: says by itself when it is ready, and is asked by a message to stop.
import { createServer } from 'node:http'

const server = createServer((request, response) => response.end(String(process.pid)))
server.listen({ port: 3000, host: '127.0.0.1' }, () => process.send('ready'))
process.on('message', (message) => {
  if (message !== 'shutdown') return
  console.log('asked to shut down')
  server.close(() => process.exit(0))
})
