// The layer composed of TensorFlow.js ops on its WebAssembly backend, which has no op for it: rows gathered, multiplied expert by
// expert, put back and added. In Node that backend runs on one thread, whatever is asked for.

import type { Activation } from '../../src/activation.ts';
import { npmPeer, peerVersion, requirePeer } from './packages.ts';
import type { Load, Task } from './peer.ts';
import { type PerExpertLayer, readPerExpertLayer } from './per-expert-layer.ts';
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

export const tfjsWasm = npmPeer(NAME, Object.keys(ACTIVATIONS) as Activation[], import.meta.url);

export const load: Load = async (task, folder) => {
  const tf = requirePeer<TensorFlow>(NAME, CORE);
  requirePeer(NAME, BACKEND);
  await tf.setBackend('wasm');
  const layer = readPerExpertLayer(task, folder, (values, columns) =>
    tf.tensor(values, [values.length / columns, columns]),
  );
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

function forward(tf: TensorFlow, { shape }: Task, { x, router, up, down }: PerExpertLayer<Tensor>): Tensor {
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
