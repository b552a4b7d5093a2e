// `node broker.js PORT`: aedes with its defaults (everything in memory) on the loopback address.
import { createServer } from 'node:net'
import { Aedes } from 'aedes'

const port = Number(process.argv[2])
if (!Number.isInteger(port)) {
  console.error('give the port to listen on, as in `node broker.js 1883`')
  process.exit(2)
}
const broker = await Aedes.createBroker({ concurrency: 1000, queueLimit: 1_000_000 })
createServer(broker.handle).listen(port, '127.0.0.1')
