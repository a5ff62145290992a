export default {
  output: 'standalone',
  outputFileTracingRoot: process.cwd(),
  rewrites: async () => ({ beforeFiles: [{ source: '/', destination: '/api' }] }),
}
