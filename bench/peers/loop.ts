// The layer as a framework without grouped products composes it: each expert's rows gathered, multiplied by themselves, and at last
// all put back and added by weight. From this package's own ops, so that nothing is fetched and the products are as fast as ours.

import { ACTIVATIONS } from '../../src/activation.ts';
import { setFloat32Matmul, setThreads, synchronize } from '../../src/device.ts';
import { groupedMatmul } from '../../src/ops/grouped-matmul.ts';
import { unpermute, unpermuteBackward } from '../../src/ops/permute.ts';
import { type Routing, route, routingTensors } from '../../src/ops/route.ts';
import { packageVersion } from '../../src/package.ts';
import { castInto, empty, type Tensor, tensor } from '../../src/tensor.ts';
import { type LayerTensor, readFloats } from './layer-files.ts';
import { type Load, nodeProgram, type Peer, type Task } from './peer.ts';
import { slotsByExpert } from './slots.ts';

export const loop: Peer = {
  name: 'loop',
  dtypes: ['float32', 'bfloat16', 'float16'],
  passes: ['forward'],
  activations: ACTIVATIONS,
  gpus: true,
  program: () => nodeProgram(import.meta.url),
};

interface Layer {
  readonly x: Tensor;
  readonly router: Tensor;
  /** One of each for every expert, [1, N, C]. */
  readonly up: readonly Tensor[];
  readonly down: readonly Tensor[];
  /** [T, 1] of −1: which slots the rows are of says enough to gather them. */
  readonly unplaced: Tensor;
}

export const load: Load = async (task, folder) => {
  setThreads(task.threads);
  if (task.tf32) setFloat32Matmul('tf32');
  const layer = readLayer(task, folder);
  let y: Tensor;
  return {
    ...{ version: packageVersion(), threads: task.threads },
    run: () => {
      y = forward(task, layer);
      synchronize(task.device);
    },
    results: async () => ({ y: await y.float32() }),
    clear: () => y.dispose(),
  };
};

function readLayer({ shape, dtype, device }: Task, folder: string): Layer {
  const { tokens, hidden, intermediate, experts } = shape;
  const matrices = (name: LayerTensor, count: number, columns: number) => {
    const values = readFloats(folder, name);
    const size = values.length / count;
    return Array.from({ length: count }, (_, i) =>
      tensor(values.subarray(i * size, (i + 1) * size), [1, size / columns, columns], { dtype, device }),
    );
  };
  return {
    x: tensor(readFloats(folder, 'x'), [tokens, hidden], { dtype, device }),
    router: tensor(readFloats(folder, 'router'), [experts, hidden], { dtype, device }),
    up: matrices('up', experts, hidden),
    down: matrices('down', experts, intermediate),
    unplaced: integers(new Int32Array(tokens).fill(-1), [tokens, 1], device),
  };
}

function forward({ shape, dtype, device }: Task, { x, router, up, down, unplaced }: Layer): Tensor {
  const { tokens, hidden, experts, topK, activation } = shape;
  const routing = route({ x, weight: router, topK, normalize: topK > 1 });
  const { slots, places } = slotsByExpert(routing.indices.dataSync(), experts);
  using outputs = empty([tokens * topK, hidden], { dtype, device });
  let place = 0;
  for (const [e, slotsOfExpert] of slots.entries()) {
    const count = slotsOfExpert.length;
    if (count === 0) continue;
    using offsets = integers([0, count], [2], device);
    using rowSlot = integers(
      slotsOfExpert.map(slot => Math.floor(slot / topK)),
      [count],
      device,
    );
    using rows = unpermuteBackward({ dy: x, dispatch: { offsets, rowSlot, slotRow: unplaced } }).dRows;
    using activated = groupedMatmul({ rows, weight: up[e]!, offsets, activation }).out;
    using output = groupedMatmul({ rows: activated, weight: down[e]!, offsets }).out;
    castInto(output, outputs, place * hidden);
    place += count;
  }
  return addByWeight(outputs, places, routing);
}

function integers(values: ArrayLike<number>, shape: readonly number[], device: Task['device']): Tensor {
  return tensor(Int32Array.from(values), shape, { dtype: 'int32', device });
}

function addByWeight(outputs: Tensor, places: Int32Array, routing: Routing): Tensor {
  const { indices, weights } = routing;
  const { device } = outputs;
  using slotRow = integers(places, indices.shape, device);
  // Which rows the slots have says enough to add them.
  using rowSlot = empty([places.length], { dtype: 'int32', device });
  using offsets = empty([2], { dtype: 'int32', device });
  const y = unpermute({ rows: outputs, dispatch: { offsets, rowSlot, slotRow }, weights });
  for (const made of routingTensors(routing)) made.dispose();
  return y;
}
