// The layer composed of TensorFlow.js ops on its WebAssembly backend, which has no op for it: rows gathered, multiplied expert by
// expert, put back and added. In Node that backend runs on one thread, whatever is asked for.

import type { Activation } from '../../src/activation.ts';
import { type LayerTensor, readFloats } from './layer-files.ts';
import { fetchPackages, peerVersion, requirePeer } from './packages.ts';
import { type Load, nodeProgram, type Peer, type Task } from './peer.ts';
import { slotsByExpert } from './slots.ts';

const NAME = 'tfjs-wasm';
const CORE = '@tensorflow/tfjs-core';
const BACKEND = '@tensorflow/tfjs-backend-wasm';

/** The part of the package that is used here. */
interface TensorFlow {
  setBackend(name: 'wasm'): Promise<boolean>;
  tidy<T>(make: () => T): T;
  tensor(values: Float32Array | Int32Array, shape: readonly number[]): Tensor;
  tensor1d(values: Int32Array, dtype: 'int32'): Tensor;
  matMul(a: Tensor, b: Tensor, transposeA: boolean, transposeB: boolean): Tensor;
  gather(rows: Tensor, indices: Tensor): Tensor;
  topk(values: Tensor, k: number): { values: Tensor; indices: Tensor };
  softmax(logits: Tensor): Tensor;
  split(values: Tensor, parts: number, axis: number): Tensor[];
  concat(parts: Tensor[], axis: number): Tensor;
  sigmoid(values: Tensor): Tensor;
  relu(values: Tensor): Tensor;
  mul(a: Tensor, b: Tensor): Tensor;
  div(a: Tensor, b: Tensor): Tensor;
  sum(values: Tensor, axis: number, keepDims?: boolean): Tensor;
  reshape(values: Tensor, shape: readonly number[]): Tensor;
}

interface Tensor {
  dataSync(): Float32Array | Int32Array;
  dispose(): void;
}

const ACTIVATIONS: Partial<Record<Activation, (tf: TensorFlow, rows: Tensor) => Tensor>> = {
  swiglu: (tf, rows) => {
    const [gate, up] = tf.split(rows, 2, 1);
    return tf.mul(tf.mul(gate!, tf.sigmoid(gate!)), up!);
  },
  silu: (tf, rows) => tf.mul(rows, tf.sigmoid(rows)),
  relu: (tf, rows) => tf.relu(rows),
};

export const tfjsWasm: Peer = {
  name: NAME,
  dtypes: ['float32'],
  passes: ['forward'],
  activations: Object.keys(ACTIVATIONS) as Activation[],
  gpus: false,
  absent: (_, say) => fetchPackages(NAME, say),
  program: () => nodeProgram(import.meta.url),
};

interface Layer {
  readonly x: Tensor;
  readonly router: Tensor;
  /** One of each for every expert. */
  readonly up: readonly Tensor[];
  readonly down: readonly Tensor[];
}

export const load: Load = async (task, folder) => {
  const tf = requirePeer<TensorFlow>(NAME, CORE);
  requirePeer(NAME, BACKEND);
  await tf.setBackend('wasm');
  const layer = readLayer(tf, task, folder);
  let y: Tensor;
  return {
    ...{ version: peerVersion(NAME, BACKEND), threads: 1 },
    run: () => {
      y = tf.tidy(() => forward(tf, task, layer));
    },
    results: () => ({ y: y.dataSync() as Float32Array }),
    clear: () => y.dispose(),
  };
};

function readLayer(tf: TensorFlow, { shape }: Task, folder: string): Layer {
  const { tokens, hidden, intermediate, experts } = shape;
  const matrices = (name: LayerTensor, count: number, columns: number) => {
    const values = readFloats(folder, name);
    const size = values.length / count;
    return Array.from({ length: count }, (_, i) =>
      tf.tensor(values.subarray(i * size, (i + 1) * size), [size / columns, columns]),
    );
  };
  return {
    x: tf.tensor(readFloats(folder, 'x'), [tokens, hidden]),
    router: tf.tensor(readFloats(folder, 'router'), [experts, hidden]),
    up: matrices('up', experts, hidden),
    down: matrices('down', experts, intermediate),
  };
}

function forward(tf: TensorFlow, { shape }: Task, { x, router, up, down }: Layer): Tensor {
  const { tokens, hidden, experts, topK, activation } = shape;
  const activate = ACTIVATIONS[activation]!;
  const probabilities = tf.softmax(tf.matMul(x, router, false, true));
  const { values, indices } = tf.topk(probabilities, topK);
  const weights = topK > 1 ? tf.div(values, tf.sum(values, 1, true)) : values;
  const { slots, places } = slotsByExpert(indices.dataSync(), experts);
  const outputs = slots.flatMap((slotsOfExpert, e) => {
    if (slotsOfExpert.length === 0) return [];
    const tokensOfExpert = Int32Array.from(slotsOfExpert, slot => Math.floor(slot / topK));
    const rows = tf.gather(x, tf.tensor1d(tokensOfExpert, 'int32'));
    const activated = activate(tf, tf.matMul(rows, up[e]!, false, true));
    return [tf.matMul(activated, down[e]!, false, true)];
  });
  const routed = tf.gather(tf.concat(outputs, 0), tf.tensor1d(places, 'int32'));
  const weighted = tf.mul(tf.reshape(routed, [tokens, topK, hidden]), tf.reshape(weights, [tokens, topK, 1]));
  return tf.sum(weighted, 1);
}
