// Prints, as JSON on descriptor argv[3], what the module named by argv[2] exports; a function is called, a promise awaited.
// argv[4] has letters: m, each variable that is not set gives a marker of its name, so that the reader sees where it goes;
// e, files called .env* and modules that are not here are taken as empty, and listed.
'use strict'

const fs = require('fs')
const Module = require('module')
const path = require('path')
const url = require('url')

const marked = process.argv[4].includes('m')
const missing = new Set()
const marker = name => `\ufdd1${name}\ufdd2\ufdd3`
const dotenv = path.join(__dirname, 'dotenv.cjs')
const reading = fs.readFileSync
globalThis[Symbol.for('impetusd.dotenv')] = { files: {}, marker: marked ? marker : null, read: name => reading(name, 'utf8') }

// Whatever is asked of it, it gives itself, and it is left out of JSON.
const nothing = new Proxy(function () {}, {
  get: (_, name) => name === Symbol.toPrimitive ? () => '' : name === 'then' || name === '__esModule' ? undefined : nothing,
  apply: () => nothing,
  construct: () => nothing
})

function lenient () {
  const load = Module._load
  Module._load = function (name, ...others) {
    try {
      return load.call(this, name, ...others)
    } catch (error) {
      if (error.code !== 'MODULE_NOT_FOUND' || !error.message.includes(`'${name}'`)) throw error
      missing.add(name)
      return nothing
    }
  }
  const lacks = name => {
    if (typeof name !== 'string' || !path.basename(name).startsWith('.env') || here(name)) return false
    missing.add(path.resolve(name))
    return true
  }
  const here = fs.existsSync
  fs.existsSync = name => lacks(name) || here(name)
  fs.readFileSync = (name, how) => !lacks(name) ? reading(name, how) : how ? '' : Buffer.alloc(0)
}

async function main () {
  console.log = console.info = console.debug = console.error
  const load = Module._load
  Module._load = function (name, ...others) {
    if (name !== 'dotenv' && name !== 'dotenv/config') return load.call(this, name, ...others)
    if (name === 'dotenv/config') require(dotenv).config()
    return require(dotenv)
  }
  if (Module.register) { // for import; from Node 20.6 on
    const ours = JSON.stringify(url.pathToFileURL(dotenv).href)
    const config = JSON.stringify('data:text/javascript,' + encodeURIComponent(`import dotenv from ${ours}; dotenv.config()`))
    Module.register('data:text/javascript,' + encodeURIComponent(`export const resolve = (name, context, next) =>
      name === 'dotenv' ? { url: ${ours}, shortCircuit: true } : name === 'dotenv/config' ? { url: ${config}, shortCircuit: true } : next(name, context)`))
  }
  if (process.argv[4].includes('e')) lenient()
  Module.syncBuiltinESMExports()
  if (marked) {
    const set = process.env
    process.env = new Proxy(set, {
      get: (all, name) => typeof name !== 'string' || name in all ? all[name] : marker(name)
    })
  }
  const loaded = await import(url.pathToFileURL(process.argv[2]))
  let value = loaded.default === undefined ? loaded : loaded.default
  if (typeof value === 'function') value = value()
  value = await value
  const files = globalThis[Symbol.for('impetusd.dotenv')].files
  fs.writeFileSync(Number(process.argv[3]), JSON.stringify({ value: value === undefined ? null : value, files, missing: [...missing] }))
}

main().then(() => process.exit(0), error => {
  console.error(String(error && error.message).split('\n')[0])
  process.exit(1)
})
