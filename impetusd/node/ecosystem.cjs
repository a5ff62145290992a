// Prints, as JSON on descriptor argv[3], what the module named by argv[2] exports; a function is called, a promise awaited.
// With argv[4] === 'marked' each variable that is not set gives a marker of its name, so that the reader sees where it goes.
'use strict'

const fs = require('fs')
const url = require('url')

async function main () {
  console.log = console.info = console.debug = console.error
  if (process.argv[4] === 'marked') {
    const set = process.env
    process.env = new Proxy(set, {
      get: (all, name) => typeof name !== 'string' || name in all ? all[name] : `\ufdd1${name}\ufdd2\ufdd3`
    })
  }
  const loaded = await import(url.pathToFileURL(process.argv[2]))
  let value = loaded.default === undefined ? loaded : loaded.default
  if (typeof value === 'function') value = value()
  fs.writeFileSync(Number(process.argv[3]), JSON.stringify(await value) || 'null')
}

main().then(() => process.exit(0), error => {
  console.error(String(error && error.message).split('\n')[0])
  process.exit(1)
})
