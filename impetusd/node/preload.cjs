// Loaded first into each Node process of a program with `listen` (NODE_OPTIONS=--require): what a server that knows nothing
// of impetusd has to do for a reload without a lost request, it does in its place. Node 18 and newer, nothing but its core.
//
//   server.listen(PORT)      takes the socket of `listen`, which impetusd holds and all instances share
//   listening                is said (READY=1), or process.send('ready') is
//   SIGTERM                  lets the requests that run end, where the application has no handler of its own
//   npm, npx, sh, node       between impetusd and the server hand the sockets on
//
// IMPETUSD_NODE, as JSON: `listen` [{fd, inode, host, port} or {fd, inode, path}], `notify` {fd, inode} (a datagram socket,
// connected: Node has no other way to write to one), `ready` "listen" (listening is being ready) or "told", `signal` that
// asks to stop, `linger` seconds that idle connections are kept then, `python` for when `notify` is gone.
'use strict'

const { isMainThread } = require('node:worker_threads')

const told = process.env.IMPETUSD_NODE
// A worker of the application's own cluster gets its connections from its primary.
if (told && isMainThread && !('NODE_UNIQUE_ID' in process.env)) {
  try {
    setUp(JSON.parse(told))
  } catch (error) {
    warn(`${error.message}; running without the sockets of listen`)
  }
}

function warn(text) {
  process.stderr.write(`impetusd: ${text}\n`)
}

function setUp(told) {
  const fs = require('node:fs')
  const net = require('node:net')
  const path = require('node:path')
  const { errorMonitor } = require('node:events')
  const childProcess = require('node:child_process')

  const BACKLOG = 65535 // the kernel caps it; listen(2) on a shared socket sets it for all
  const RETRY = 50 // milliseconds, when the notify socket is full
  const CODE = "import os,socket,sys;s=socket.socket(1,2);a=os.environ['NOTIFY_SOCKET'];" +
    "s.connect('\\0'+a[1:] if a[0]=='@' else a);s.send(b'READY=1');sys.stdin.read()"

  // A number says nothing in a process that was started with other descriptors.
  const isOurs = ({ fd, inode }) => {
    try {
      return fs.fstatSync(fd).ino === inode
    } catch {
      return false
    }
  }
  const sockets = told.listen.filter(isOurs)
  if (!sockets.length) return
  const notify = told.notify && isOurs(told.notify) ? told.notify : null
  const servers = new Map() // which took a socket → its open connections
  let ready = !told.ready
  let leaving = false
  let ending = false

  // Applications that know systemd's protocol look at these themselves; a pid between us and impetusd would mislead them.
  if (sockets.length === Number(process.env.LISTEN_FDS) && sockets.every(({ fd }, index) => fd === 3 + index)) {
    process.env.LISTEN_PID = String(process.pid)
  } else {
    for (const name of ['LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_PID']) delete process.env[name]
  }

  // Being ready.

  function sayReady() {
    if (ready) return
    ready = true
    if (notify) write()
    else sayByPython()
  }

  function write() {
    try {
      fs.writeSync(notify.fd, 'READY=1')
    } catch (error) {
      if (error.code === 'EAGAIN') setTimeout(write, RETRY)
      else sayByPython() // an upgrade of impetusd made the socket anew
    }
  }

  function sayByPython() {
    const child = childProcess.spawn(told.python, ['-SsE', '-c', CODE], { stdio: ['pipe', 'ignore', 'inherit'] })
    child.on('error', (error) => warn(`cannot report that it is ready: ${error.message}`))
    child.stdin.on('error', () => {})
    child.unref() // it stays for a moment, so that impetusd sees whose child it is
    setTimeout(() => child.stdin.end(), 5000).unref()
  }

  const send = process.send
  process.send = function (message, ...rest) {
    if (message === 'ready') sayReady()
    if (send) return send.call(this, message, ...rest)
    const callback = rest.find((each) => typeof each === 'function')
    if (callback) process.nextTick(callback, null)
    return true
  }

  // Listening.

  const listen = net.Server.prototype.listen
  net.Server.prototype.listen = function (...args) {
    const socket = chosen(wanted(args))
    if (!socket) return listen.apply(this, args)
    if (socket.server) {
      const error = new Error(`listen EADDRINUSE: another server in this process already uses ${shown(socket)}`)
      const callback = args.at(-1)
      process.nextTick(() => this.emit('error', Object.assign(error, { code: 'EADDRINUSE', syscall: 'listen', port: socket.port })))
      return this
    }
    take(socket, this)
    const { signal } = typeof args[0] === 'object' && args[0] ? args[0] : {}
    const callback = args.at(-1)
    return listen.call(this, { fd: socket.fd, ...(signal && { signal }) }, BACKLOG, ...(typeof callback === 'function' ? [callback] : []))
  }

  // What listen() is asked for: {fd}, {path} or {port, host}; null for what is none of ours, as a port that the kernel chooses.
  function wanted([first, second]) {
    const options = typeof first === 'object' && first !== null ? first : { port: first, host: second }
    if (typeof options.fd === 'number') return { fd: options.fd }
    if (options._handle || options.handle || 'fd' in options) return null
    const name = options.path ?? (typeof options.port === 'string' && !(Number(options.port) >= 0) ? options.port : undefined)
    if (typeof name === 'string') return { path: path.resolve(name) }
    const port = Number(options.port ?? 0)
    return port > 0 ? { port, host: typeof options.host === 'string' ? options.host : '' } : null
  }

  function chosen(wanted) {
    if (!wanted) return null
    if (wanted.fd !== undefined) return sockets.find((each) => each.fd === wanted.fd)
    if (wanted.path) return sockets.find((each) => each.path === wanted.path)
    const same = sockets.filter((each) => each.port === wanted.port)
    const found = same.find((each) => each.host === wanted.host && !each.server) ?? same.find((each) => !each.server) ?? same[0]
    if (found || sockets.length > 1 || sockets[0].server) return found
    warn(`the server requested port ${wanted.port} but gets ${shown(sockets[0])} from listen`)
    return sockets[0]
  }

  function shown({ host, port, path }) {
    return path ? `unix:${path}` : host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
  }

  function take(socket, server) {
    const connections = new Set()
    socket.server = server
    servers.set(server, connections)
    server.on('connection', (connection) => {
      connections.add(connection)
      connection.on('close', () => connections.delete(connection))
    })
    server.once('listening', () => {
      delete process.env.IMPETUSD_NODE // what is started from now on is no server of ours
      if (told.ready === 'listen') sayReady()
    })
    server.on('close', () => {
      servers.delete(server)
      sockets.splice(sockets.indexOf(socket), 1)
      if (servers.size) return
      if (ending) end()
      else if (!leaving) process.removeListener(told.signal, hear) // nothing is left that a stop could cut off
    })
    server.on(errorMonitor, () => {
      if (!server.listening) {
        servers.delete(server)
        socket.server = undefined
      }
    })
    if (typeof server.closeIdleConnections === 'function') {
      // Called by close(), too. A client may be about to send a request on an idle connection: it would be lost.
      const closeIdle = server.closeIdleConnections
      server.closeIdleConnections = function () {
        if (!leaving) closeIdle.call(this)
      }
      server.once('impetusd:linger', () => {
        closeIdle.call(server)
        for (const each of connections) if (!each.parser && !each._httpMessage) each.end() // WebSockets
      })
    }
    hearSignal()
  }

  // Stopping.

  const emit = process.emit
  process.emit = function (name, ...args) {
    if (name === told.signal && servers.size && !stop()) return true
    return emit.call(this, name, ...args)
  }

  const hear = () => {}
  function hearSignal() {
    if (!told.signal || process.listeners(told.signal).includes(hear)) return
    process.on(told.signal, hear)
  }

  // Whether the application is to hear of the signal.
  function stop() {
    linger()
    // Packages like signal-exit listen only to repeat the signal: they publish how many of them do.
    const repeating = [process.__signal_exit_emitter__, globalThis[Symbol.for('signal-exit emitter')]]
    const others = repeating.reduce((sum, each) => sum - (each?.count ?? 0), process.listenerCount(told.signal) - 1)
    if (others > 0) return true
    if (process.listenerCount('message') && !process.channel) {
      emit.call(process, 'message', 'shutdown')
      return false
    }
    ending = true
    for (const server of servers.keys()) net.Server.prototype.close.call(server)
    return false
  }

  // From now on each answer is the last on its connection; what stays idle is closed after a while.
  function linger() {
    if (leaving) return
    leaving = true
    for (const server of servers.keys()) {
      server.prependListener('request', (_request, response) => {
        response.shouldKeepAlive = false
      })
      for (const { _httpMessage } of servers.get(server)) if (_httpMessage && !_httpMessage.headersSent) _httpMessage.shouldKeepAlive = false
      setTimeout(() => server.emit('impetusd:linger'), told.linger * 1000).unref()
    }
  }

  // As without us: it dies of the signal.
  function end() {
    process.removeListener(told.signal, hear)
    process.kill(process.pid, told.signal)
  }

  // Handing on.

  const spawn = childProcess.ChildProcess.prototype.spawn
  childProcess.ChildProcess.prototype.spawn = function (options) {
    if (!servers.size && options?.envPairs) {
      const index = options.envPairs.findIndex((each) => each.startsWith('IMPETUSD_NODE='))
      if (index >= 0) options = handedOn(options, index)
    }
    return spawn.call(this, options)
  }

  function handedOn(options, index) {
    const stdio = Array.isArray(options.stdio) ? [...options.stdio] : Array(3).fill(options.stdio)
    while (stdio.length < 3) stdio.push(undefined)
    const put = (each) => each && { ...each, server: undefined, fd: stdio.push(each.fd) - 1 }
    const handed = { ...told, listen: sockets.map(put), notify: put(notify) }
    const envPairs = [...options.envPairs]
    envPairs[index] = `IMPETUSD_NODE=${JSON.stringify(handed)}`
    return { ...options, stdio, envPairs }
  }
}
