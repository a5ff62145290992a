const http = require('http')

http.createServer((request, response) => response.end(String(process.pid))).listen(process.env.PORT)
