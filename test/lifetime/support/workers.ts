// Worker threads that use the package, and the tasks they can be given.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

/**
 * - `digests`: posts the layer digests of the seeds given, one after the other
 * - `long work`: enqueues long work, posts, and reads tensors behind it
 * - `hoard`: fills tensors of so many MiB, posts, and ends with all of them alive
 * - `bad op`: enqueues an op that fails while running, and posts the code it saw at its own wait
 */
export type Task =
  | { readonly name: 'digests'; readonly seeds: readonly number[] }
  | { readonly name: 'long work' }
  | { readonly name: 'hoard'; readonly mebibytes: number }
  | { readonly name: 'bad op' };

export interface TaskWorker {
  readonly worker: Worker;
  /** What the worker posts; rejects if it throws first. */
  readonly message: Promise<unknown>;
  /** Its exit code. */
  readonly exit: Promise<number>;
}

export function startWorker(task: Task): TaskWorker {
  const program = new URL('./worker-program.ts', import.meta.url).href;
  const worker = new Worker(new URL('./worker-boot.mjs', import.meta.url), { workerData: { program, task } });
  const exit = new Promise<number>(resolve => worker.once('exit', resolve));
  const message = once(worker, 'message').then(([value]) => value as unknown);
  return { worker, message, exit };
}
