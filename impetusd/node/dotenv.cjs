// Stands for the package dotenv while a configuration is read: what is in the files is reported, so that env_file can name them.
'use strict'

const path = require('path')

const LINE = /^\s*(?:export\s+)?([\w.-]+)(?:\s*=\s*?|:\s+?)(\s*'(?:\\'|[^'])*'|\s*"(?:\\"|[^"])*"|\s*`(?:\\`|[^`])*`|[^#\r\n]+)?\s*(?:#.*)?$/mg
const state = globalThis[Symbol.for('impetusd.dotenv')]

function parse (text) {
  const found = {}
  for (const match of String(text).replace(/\r\n?/g, '\n').matchAll(LINE)) {
    const value = (match[2] || '').trim()
    const plain = value.replace(/^(['"`])([\s\S]*)\1$/, '$2')
    found[match[1]] = value[0] === '"' ? plain.replace(/\\n/g, '\n').replace(/\\r/g, '\r') : plain
  }
  return found
}

function config (options = {}) {
  const parsed = {}
  for (const each of [options.path || '.env'].flat()) {
    const file = path.resolve(String(each).replace(/^~(?=\/)/, process.env.HOME))
    let found = {}
    try {
      found = parse(state.read(file))
    } catch {}
    state.files[file] = found
    for (const name of Object.keys(found)) {
      if (name in parsed) continue
      parsed[name] = state.marker && !(name in process.env) ? state.marker(name) : found[name]
      if (!state.marker && (options.override || !(name in process.env))) process.env[name] = found[name]
    }
  }
  return { parsed }
}

exports.parse = parse
exports.config = config
exports.configDotenv = config
exports.populate = Object.assign
