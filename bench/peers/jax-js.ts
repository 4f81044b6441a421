// The layer composed of jax-js ops on its WebAssembly backend, the one of its fast backends that Node has: rows gathered, multiplied
// expert by expert, put back and added. An op takes its arrays with it unless they are named with `ref`.

import type { Activation } from '../../src/activation.ts';
import { npmPeer, peerVersion, requirePeer } from './packages.ts';
import type { Load, Task } from './peer.ts';
import { type PerExpertLayer, readPerExpertLayer } from './per-expert-layer.ts';
import { slotsByExpert } from './slots.ts';

const NAME = 'jax-js';
const PACKAGE = '@jax-js/jax';

/** The part of the package that is used here. */
interface Jax {
  init(device: 'wasm'): Promise<unknown>;
  defaultDevice(device: 'wasm'): unknown;
  blockUntilReady(made: JaxArray): Promise<unknown>;
  readonly lax: { topK(x: JaxArray, k: number): [values: JaxArray, indices: JaxArray] };
  readonly nn: Record<'silu' | 'relu' | 'softmax', (x: JaxArray) => JaxArray>;
  readonly numpy: {
    readonly int32: unknown;
    array(values: Float32Array | Int32Array, options: { shape: number[]; dtype?: unknown }): JaxArray;
    matmul(x: JaxArray, y: JaxArray): JaxArray;
    transpose(x: JaxArray): JaxArray;
    take(x: JaxArray, indices: JaxArray, axis: 0): JaxArray;
    split(x: JaxArray, parts: number, axis: 1): JaxArray[];
    concatenate(parts: JaxArray[], axis: 0): JaxArray;
    multiply(x: JaxArray, y: JaxArray): JaxArray;
    divide(x: JaxArray, y: JaxArray): JaxArray;
    sum(x: JaxArray, axis: 1, options?: { keepdims: true }): JaxArray;
    reshape(x: JaxArray, shape: number[]): JaxArray;
  };
}

interface JaxArray {
  readonly ref: JaxArray;
  data(): Promise<Float32Array | Int32Array>;
  dispose(): void;
}

const ACTIVATIONS: Partial<Record<Activation, (jax: Jax, rows: JaxArray) => JaxArray>> = {
  swiglu: ({ nn, numpy }, rows) => {
    const [gate, up] = numpy.split(rows, 2, 1);
    return numpy.multiply(nn.silu(gate!), up!);
  },
  silu: ({ nn }, rows) => nn.silu(rows),
  relu: ({ nn }, rows) => nn.relu(rows),
};

export const jaxJs = npmPeer(NAME, Object.keys(ACTIVATIONS) as Activation[], import.meta.url);

export const load: Load = async (task, folder) => {
  const jax = requirePeer<Jax>(NAME, PACKAGE);
  await jax.init('wasm');
  jax.defaultDevice('wasm');
  const layer = readPerExpertLayer(task, folder, (values, columns) =>
    jax.numpy.array(values, { shape: [values.length / columns, columns] }),
  );
  let y: JaxArray;
  return {
    ...{ version: peerVersion(NAME, PACKAGE), threads: 1 },
    run: async () => {
      y = await forward(jax, task, layer);
      await jax.blockUntilReady(y);
    },
    results: async () => ({ y: (await y.ref.data()) as Float32Array }),
    clear: () => y.dispose(),
  };
};

async function forward(
  jax: Jax,
  { shape }: Task,
  { x, router, up, down }: PerExpertLayer<JaxArray>,
): Promise<JaxArray> {
  const { numpy, nn, lax } = jax;
  const { tokens, hidden, experts, topK, activation } = shape;
  const product = (rows: JaxArray, weight: JaxArray) => numpy.matmul(rows, numpy.transpose(weight.ref));
  const integers = (values: Int32Array) =>
    numpy.array(values, { shape: [values.length], dtype: numpy.int32 });
  const [values, indices] = lax.topK(nn.softmax(product(x.ref, router)), topK);
  const weights = topK > 1 ? numpy.divide(values.ref, numpy.sum(values, 1, { keepdims: true })) : values;
  const { slots, places } = slotsByExpert(await indices.data(), experts);
  const outputs = slots.flatMap((slotsOfExpert, e) => {
    if (slotsOfExpert.length === 0) return [];
    const tokensOfExpert = Int32Array.from(slotsOfExpert, slot => Math.floor(slot / topK));
    const rows = numpy.take(x.ref, integers(tokensOfExpert), 0);
    return [product(ACTIVATIONS[activation]!(jax, product(rows, up[e]!)), down[e]!)];
  });
  const routed = numpy.take(numpy.concatenate(outputs, 0), integers(places), 0);
  const weighted = numpy.multiply(
    numpy.reshape(routed, [tokens, topK, hidden]),
    numpy.reshape(weights, [tokens, topK, 1]),
  );
  return numpy.sum(weighted, 1);
}
