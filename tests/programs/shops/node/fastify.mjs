import Fastify from 'fastify'

const app = Fastify()
app.get('/', async () => String(process.pid))
await app.listen({ port: process.env.PORT || 3000 })
