// What a contender's process is asked and answers: lines of JSON, requests on its standard input, replies on file descriptor 3, so
// that whatever a library prints does no harm. One request at a time; the process ends with its input.

import type { Task } from './peer.ts';

export type Request =
  /** Loads the layer whose files lie in `folder`. */
  | { readonly do: 'load'; readonly task: Task; readonly folder: string }
  /** Runs once and writes each result to `<folder>/<prefix>.<name>.f32`. */
  | { readonly do: 'check'; readonly prefix: string }
  | { readonly do: 'run'; readonly times: number };

export interface Replies {
  readonly load: { readonly version: string; readonly threads: number };
  /** The names of the results. */
  readonly check: { readonly results: readonly string[] };
  /** Of each run. */
  readonly run: { readonly ms: readonly number[] };
}

export type Failure = { readonly error: string };

export const REPLY_DESCRIPTOR = 3;
