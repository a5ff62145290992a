export default (request, response) => {
  const body = String(process.pid)
  response.setHeader('content-length', body.length)
  response.end(body)
}
