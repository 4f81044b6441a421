// A worker thread that works on a GPU by itself, as a framework with a CUDA stream of its own does beside this package: fills memory
// without waiting, tells where, and reads it when told to.

import { parentPort, workerData } from 'node:worker_threads';
import { ones, streamOf } from '../../src/index.ts';

const { device, size } = workerData;
const memory = ones([size], { device });
parentPort!.postMessage({ stream: streamOf(device), pointer: memory.pointer });
parentPort!.once('message', () => {
  parentPort!.postMessage(memory.dataSync());
  parentPort!.close();
});
