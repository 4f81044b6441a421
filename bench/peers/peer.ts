// What a peer is: another implementation of the layer that can be run beside ours. One file per peer, which exports its
// `Peer` and, where it runs in Node, `load`.

import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { FloatDType } from '../../src/dtype.ts';
import type { LayerShape, Pass } from '../shapes.ts';

export const PEER_PASSES = ['forward', 'both'] as const satisfies readonly Pass[];

/** What every contender computes: softmax over all experts, the K largest, normalised where K > 1. */
export interface Task {
  readonly shape: LayerShape;
  readonly dtype: FloatDType;
  readonly pass: (typeof PEER_PASSES)[number];
  readonly threads: number;
}

/** A command that speaks the protocol of `protocol.ts`. */
export interface Program {
  readonly command: string;
  readonly args: readonly string[];
}

export interface ProgramOptions {
  /** The Python interpreter. */
  readonly python: string;
  /** A checkout of ggml. */
  readonly ggml?: string;
}

export interface Peer {
  readonly name: string;
  /** Fetches it where that is possible; why it is not here, or undefined where it is. */
  absent?(options: ProgramOptions): string | undefined;
  /** Why it cannot compute the task; undefined where it can. */
  can(task: Task): string | undefined;
  program(options: ProgramOptions): Program;
}

/** What is compared of a pass; the weights' gradients of {@link comparedExperts}. */
export const RESULTS = {
  forward: ['y'],
  both: ['y', 'dx', 'd.router', 'd.up', 'd.down'],
} as const satisfies Record<Task['pass'], readonly string[]>;

/** The {@link RESULTS} by name, as float32. */
export type Results = Readonly<Record<string, Float32Array>>;

/** A layer in memory, ready to run. Only `run` is timed. */
export interface Loaded {
  readonly version: string;
  /** Threads that it runs on. */
  readonly threads: number;
  run(): void | Promise<void>;
  /** Of the last run. */
  results(): Results | Promise<Results>;
  /** Frees what the last run made. */
  clear(): void;
}

/** How a peer that runs in Node loads the task's layer from the files in `folder`. */
export type Load = (task: Task, folder: string) => Promise<Loaded>;

/** The experts whose weight gradients are compared; all of them would be gigabytes. */
export function comparedExperts({ experts }: LayerShape): number[] {
  return [...new Set([0, experts - 1])];
}

/** The program of a peer that runs in Node, whose module exports `load`. */
export function nodeProgram(module: string): Program {
  const here = fileURLToPath(import.meta.url);
  const typescript = extname(here) === '.ts' ? ['--import', 'tsx'] : [];
  const child = fileURLToPath(new URL(`./child${extname(here)}`, import.meta.url));
  return { command: process.execPath, args: [...typescript, '--expose-gc', child, module] };
}

/** The first thing that is not supported, in words. */
export function unsupported(
  task: Task,
  supported: {
    readonly dtypes: readonly string[];
    readonly passes: readonly string[];
    readonly activations: readonly string[];
  },
): string | undefined {
  if (!supported.dtypes.includes(task.dtype)) return `no ${task.dtype}`;
  if (!supported.passes.includes(task.pass)) return 'no backward pass';
  if (!supported.activations.includes(task.shape.activation)) return `no ${task.shape.activation}`;
  return undefined;
}
