// What a worker thread of the tests runs: the task it was given.

import { parentPort, workerData } from 'node:worker_threads';
import { finished, tensor } from '../../../src/index.ts';
import { enqueueBadOp } from './bad-op.ts';
import { enqueueLongWork, layerDigest, randomTensor } from './work.ts';
import type { Task } from './workers.ts';

const post = (value: unknown) => parentPort!.postMessage(value);
const task: Task = workerData.task;

switch (task.name) {
  case 'digests': {
    const digests: string[] = [];
    for (const seed of task.seeds) digests.push(await layerDigest(seed));
    post(digests);
    break;
  }
  case 'long work':
    enqueueLongWork();
    post('enqueued');
    await Promise.all(Array.from({ length: 10 }, (_, seed) => randomTensor([1000], seed).data()));
    break;
  case 'hoard': {
    const hoard = Array.from({ length: task.mebibytes }, () =>
      tensor(new Float32Array(2 ** 18).fill(1), [2 ** 18]),
    );
    await finished();
    post(hoard.length);
    break;
  }
  case 'bad op':
    enqueueBadOp();
    post(
      await finished().then(
        () => 'no error',
        (error: { code?: string }) => error.code,
      ),
    );
    break;
}
