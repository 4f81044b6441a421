// Ways for a process to end. Each prints its last line and leaves the rest to Node.

import { finished, tensor, zeros } from '../../../src/index.ts';
import { enqueueBadOp } from '../support/bad-op.ts';
import { enqueueLongWork, layerDigest, randomTensor } from '../support/work.ts';

/** Tensors that are alive at the exit. */
const kept = [zeros([1024]), tensor(new Float32Array(1024), [1024], { copy: false })];

const WAYS: Readonly<Record<string, () => unknown>> = {
  'nothing pending': async () => {
    await layerDigest(1);
    console.log(kept.length);
  },
  'ops pending': () => {
    enqueueLongWork();
    console.log('enqueued');
  },
  'a read pending': () => {
    enqueueLongWork();
    randomTensor([4], 1)
      .data()
      .then(values => console.log(`read ${values.length}`));
  },
  'process.exit with ops pending': () => {
    enqueueLongWork();
    console.log('enqueued');
    process.exit(0);
  },
  'process.exit with reads pending': () => {
    enqueueLongWork();
    for (let i = 0; i < 10; i++) randomTensor([1000], i).data();
    finished();
    console.log('reading');
    process.exit(0);
  },
  'an error that nobody waited for': () => {
    enqueueBadOp();
    console.log('enqueued');
  },
  'an uncaught exception with ops pending': () => {
    enqueueLongWork();
    process.on('uncaughtException', error => {
      console.log(error.message);
      process.exit(3);
    });
    throw new Error('uncaught');
  },
};

await WAYS[process.argv[2]!]!();
