// A contender's process as the race sees it: started, asked, ended.

import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import type { PeerName } from './names.ts';
import type { Program, Task } from './peer.ts';
import { type Failure, REPLY_DESCRIPTOR, type Replies, type Request } from './protocol.ts';

/** A contender that could not do what it was asked, or did something else. */
export class ContenderFailure extends Error {
  override readonly name = 'ContenderFailure';
  readonly contender: PeerName;
  readonly because: 'failed' | 'wrong';

  constructor(contender: PeerName, reason: string, because: 'failed' | 'wrong' = 'failed') {
    super(reason);
    this.contender = contender;
    this.because = because;
  }
}

/** Longer than any answer takes: loading and checking the largest layer. */
const LIMIT_MS = 600_000;
/** How much of what a process prints is kept, to say why it failed. */
const KEPT_OUTPUT = 4000;

interface Waiting {
  readonly resolve: (line: string) => void;
  readonly reject: (error: Error) => void;
}

export class Contender implements AsyncDisposable {
  readonly name: PeerName;
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  readonly #kill = () => this.#child.kill('SIGKILL');
  #waiting: Waiting | undefined;
  #over: string | undefined;
  #output = '';

  constructor(name: PeerName, { command, args }: Program, threads: number) {
    this.name = name;
    // The variables count before a library is loaded; each contender sets its threads in its own way as well.
    const env = { ...process.env, OMP_NUM_THREADS: `${threads}`, MOE_KERNELS_THREADS: `${threads}` };
    // In a process group of its own, which Ctrl-C does not reach: it ends with this process.
    this.#child = spawn(command, args, { env, detached: true, stdio: ['pipe', 'pipe', 'pipe', 'pipe'] });
    process.once('exit', this.#kill);
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-KEPT_OUTPUT);
      });
    }
    // A process that is gone is noticed by its exit; what it was still being told does not matter.
    this.#child.stdin!.on('error', () => {});
    createInterface(this.#child.stdio[REPLY_DESCRIPTOR] as Readable).on('line', line =>
      this.#waiting?.resolve(line),
    );
    this.#ended = new Promise(resolve => {
      const over = (reason: string) => {
        this.#over ??= reason;
        this.#waiting?.reject(this.#failure(this.#over));
        resolve();
      };
      this.#child.on('error', error => over(error.message));
      this.#child.on('close', (code, signal) => over(this.#lastWords(code, signal)));
    });
  }

  load(task: Task, folder: string): Promise<Replies['load']> {
    return this.#ask({ do: 'load', task, folder });
  }

  async check(prefix: string): Promise<readonly string[]> {
    return (await this.#ask({ do: 'check', prefix })).results;
  }

  async run(times: number): Promise<readonly number[]> {
    return (await this.#ask({ do: 'run', times })).ms;
  }

  /** Ends the process and waits until it is gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin!.end();
    const killer = setTimeout(this.#kill, 5000);
    await this.#ended;
    clearTimeout(killer);
    process.off('exit', this.#kill);
  }

  async #ask<R extends Request>(request: R): Promise<Replies[R['do']]> {
    if (this.#over !== undefined) throw this.#failure(this.#over);
    const limit = setTimeout(() => {
      this.#over = `no answer in ${LIMIT_MS / 1000} s`;
      this.#kill();
    }, LIMIT_MS);
    try {
      const line = await new Promise<string>((resolve, reject) => {
        this.#waiting = { resolve, reject };
        this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
      });
      const reply = JSON.parse(line) as Replies[R['do']] | Failure;
      if ('error' in reply) throw this.#failure(reply.error);
      return reply;
    } finally {
      clearTimeout(limit);
      this.#waiting = undefined;
    }
  }

  #failure(reason: string): ContenderFailure {
    return new ContenderFailure(this.name, reason);
  }

  #lastWords(code: number | null, signal: NodeJS.Signals | null): string {
    if (signal) return `its process was ended by ${signal}`;
    return this.#output.trimEnd().split('\n').at(-1) || `its process exited with ${code}`;
  }
}
