// A worker thread loads the package and ends; then the main thread loads it; then another worker does.

import { startWorker } from '../support/workers.ts';

async function digestOfWorker(): Promise<unknown> {
  const { message, exit } = startWorker({ name: 'digests', seeds: [1] });
  const [digest] = (await message) as string[];
  await exit;
  return digest;
}

const first = await digestOfWorker();
const { layerDigest } = await import('../support/work.ts');
const here = await layerDigest(1);
const last = await digestOfWorker();
console.log(first === here && last === here ? 'same bits' : `${first} ${here} ${last}`);
