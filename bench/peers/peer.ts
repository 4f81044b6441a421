// What a peer is: another implementation of the layer that can be run beside ours. One file per peer, which exports its
// `Peer` and, where it runs in Node, `load`.

import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Activation } from '../../src/activation.ts';
import type { FloatDType } from '../../src/dtype.ts';
import type { DeviceName } from '../../src/tensor.ts';
import type { BenchCase } from '../campaign.ts';
import { isPlain } from '../routed-shapes.ts';
import type { LayerShape, Pass } from '../shapes.ts';
import type { PeerName } from './names.ts';

/** What a peer computes: softmax over all experts, the K largest, normalised where K > 1. */
export interface Task {
  readonly shape: LayerShape;
  readonly dtype: FloatDType;
  readonly pass: Pass;
  readonly threads: number;
  readonly device: DeviceName;
  /** Whether a GPU rounds float32 operands to tf32. */
  readonly tf32: boolean;
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

/** Says something that the user should know, in one line. */
export type Say = (line: string) => void;

export interface Peer {
  readonly name: PeerName;
  /** float32 among them. */
  readonly dtypes: readonly FloatDType[];
  readonly passes: readonly Pass[];
  readonly activations: readonly Activation[];
  readonly gpus: boolean;
  /** Fetches it where that is possible, not without saying so; why it is not here, or undefined where it is. */
  absent?(options: ProgramOptions, say: Say): Promise<string | undefined>;
  program(options: ProgramOptions): Program;
}

/** What the peer computes beside a case, in float32 where it lacks the dtype; or what it has instead of the case. */
export function taskFor(peer: Peer, one: BenchCase): Task | string {
  const { tokens, hidden, intermediate, experts, topK, activation, dtype, pass, threads, device } = one;
  if (one.stage !== undefined) return 'no single ops';
  if (one.graph) return 'no captured graphs';
  if (!isPlain(one)) return 'no other layer than one of softmax routing';
  if (!peer.gpus && device !== 'cpu') return `nothing for ${device}`;
  if (!peer.passes.includes(pass)) return 'no backward pass';
  if (!peer.activations.includes(activation)) return `no ${activation}`;
  return {
    shape: { tokens, hidden, intermediate, experts, topK, activation },
    dtype: peer.dtypes.includes(dtype) ? dtype : 'float32',
    ...{ pass, threads, device, tf32: one.tf32 ?? false },
  };
}

const OF_GRADIENTS = ['dx', 'd.router', 'd.up', 'd.down'] as const;

/** What is compared of a pass; the weights' gradients of {@link comparedExperts}. */
export const RESULTS: Readonly<Record<Pass, readonly string[]>> = {
  forward: ['y'],
  backward: OF_GRADIENTS,
  both: ['y', ...OF_GRADIENTS],
};

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
  const typescript = extname(here) === '.ts' ? ['--import', import.meta.resolve('tsx')] : [];
  const child = fileURLToPath(new URL(`./child${extname(here)}`, import.meta.url));
  return { command: process.execPath, args: [...typescript, '--expose-gc', child, module] };
}
