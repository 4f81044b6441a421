// The first module of a worker thread: teaches it TypeScript, which it does not inherit, then runs the program it is given.

import { workerData } from 'node:worker_threads';
import { register } from 'tsx/esm/api';

register();
await import(workerData.program);
