// ONNX Runtime's own operator for the layer, com.microsoft.MoE, on its CPU provider: float32, forward only, routing from logits.

import { writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Activation } from '../../src/activation.ts';
import { readFloats, tensorFile, writeFloats } from './layer-files.ts';
import { moeModel } from './onnx-model.ts';
import { npmPeer, peerVersion, requirePeer } from './packages.ts';
import type { Load } from './peer.ts';

/** Of the peer and of its package. */
const NAME = 'onnxruntime-node';

/** Attributes of the operator; its gelu is the tanh approximation, its swiglu takes gate and up rows in turn. */
const ACTIVATIONS: Partial<Record<Activation, Parameters<typeof moeModel>[1]>> = {
  swiglu: [
    ['activation_type', 'swiglu', 'string'],
    ['swiglu_fusion', 1, 'int'],
    ['activation_alpha', 1, 'float'],
    ['activation_beta', 0, 'float'],
  ],
  relu: [['activation_type', 'relu', 'string']],
  gelu_tanh: [['activation_type', 'gelu', 'string']],
  silu: [['activation_type', 'silu', 'string']],
  identity: [['activation_type', 'identity', 'string']],
};

export const onnxruntime = npmPeer(NAME, Object.keys(ACTIVATIONS) as Activation[], import.meta.url);

/** The part of the package that is used here. */
interface OnnxRuntime {
  readonly Tensor: new (type: 'float32', data: Float32Array, dims: readonly number[]) => OnnxTensor;
  readonly InferenceSession: {
    create(path: string, options: object): Promise<Session>;
  };
}

interface OnnxTensor {
  readonly data: Float32Array;
  dispose(): void;
}

interface Session {
  run(feeds: { x: OnnxTensor }): Promise<{ y: OnnxTensor }>;
}

export const load: Load = async ({ shape, threads }, folder) => {
  const { Tensor, InferenceSession } = requirePeer<OnnxRuntime>(NAME, NAME);
  const { tokens, hidden, intermediate, activation } = shape;
  const gated = activation === 'swiglu';
  if (gated)
    writeFloats(folder, 'up.interleaved', interleaved(readFloats(folder, 'up'), hidden, intermediate));
  const files = { router: 'router', up: gated ? 'up.interleaved' : 'up', down: 'down' };
  const path = join(folder, 'moe.onnx');
  writeFileSync(
    path,
    moeModel(shape, ACTIVATIONS[activation]!, {
      router: basename(tensorFile(folder, files.router)),
      up: basename(tensorFile(folder, files.up)),
      down: basename(tensorFile(folder, files.down)),
    }),
  );
  const session = await InferenceSession.create(path, {
    executionProviders: ['cpu'],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
  });
  const x = new Tensor('float32', readFloats(folder, 'x'), [tokens, hidden]);
  let y: OnnxTensor;
  return {
    ...{ version: peerVersion(NAME, NAME), threads },
    run: async () => {
      ({ y } = await session.run({ x }));
    },
    results: () => ({ y: y.data }),
    clear: () => y.dispose(),
  };
};

/** [E, gate rows then up rows, H] to [E, gate and up rows in turn, H]. */
export function interleaved(up: Float32Array, hidden: number, intermediate: number): Float32Array {
  const turned = new Float32Array(up.length);
  const rows = up.length / hidden;
  for (let row = 0; row < rows; row++) {
    const expert = Math.floor(row / (2 * intermediate));
    const [half, column] = [Math.floor(row / intermediate) % 2, row % intermediate];
    const to = 2 * (expert * intermediate + column) + half;
    turned.set(up.subarray(row * hidden, (row + 1) * hidden), to * hidden);
  }
  return turned;
}
