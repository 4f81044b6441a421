// What a call costs beside its arithmetic: ops on a layer so small that describing them, handing them over and hearing of their
// results is most of it. `npm run bench:enqueue`

import { printLine, printTable } from '../src/cli/output.ts';
import {
  dispatch,
  groupedMatmul,
  MoELayer,
  moeForward,
  permute,
  route,
  Tensor,
  unpermute,
} from '../src/index.ts';
import { tensor } from '../src/tensor.ts';

const SHAPE = { hidden: 64, intermediate: 64, experts: 4, topK: 2 };
const WARM_UP_CALLS = 2000;
const CALLS = 3000;

/** Makes one call. Its first tensor is what is waited for. */
type Call = () => unknown;

interface Timed {
  /** Until the call has returned. */
  readonly enqueue: number;
  /** Until its result is an array. */
  readonly result: number;
}

function firstTensor(value: unknown): Tensor | undefined {
  if (value instanceof Tensor) return value;
  if (typeof value !== 'object' || value === null) return undefined;
  for (const part of Object.values(value)) {
    const found = firstTensor(part);
    if (found) return found;
  }
  return undefined;
}

function disposeAll(value: unknown): void {
  if (value instanceof Tensor) value.dispose();
  else if (typeof value === 'object' && value !== null)
    for (const part of Object.values(value)) disposeAll(part);
}

const WAITS = {
  'await data()': (result: Tensor) => result.data(),
  'dataSync()': (result: Tensor) => result.dataSync(),
};

/** Microseconds of one call and one wait, in calls that each begin in a turn of the event loop where `apart`. */
async function time(call: Call, wait: (result: Tensor) => unknown, apart: boolean): Promise<Timed> {
  if (apart) await new Promise(resolve => setTimeout(resolve, 1));
  const start = performance.now();
  const made = call();
  const enqueued = performance.now();
  await wait(firstTensor(made)!);
  const end = performance.now();
  disposeAll(made);
  return { enqueue: 1000 * (enqueued - start), result: 1000 * (end - start) };
}

function spread(times: number[]): string {
  times.sort((a, b) => a - b);
  const at = (share: number) => times[Math.floor(share * times.length)]!.toFixed(1);
  return `${at(0.5)} (${at(0.1)}–${at(0.9)})`;
}

async function measure(name: string, call: Call): Promise<string[]> {
  const cells = [name];
  for (const [kind, wait] of Object.entries(WAITS)) {
    for (let i = 0; i < WARM_UP_CALLS; i++) await time(call, wait, false);
    const times: Timed[] = [];
    for (let i = 0; i < CALLS; i++) times.push(await time(call, wait, false));
    if (kind === 'await data()') cells.push(spread(times.map(({ enqueue }) => enqueue)));
    cells.push(spread(times.map(({ result }) => result)));
  }
  const rare: Timed[] = [];
  for (let i = 0; i < CALLS / 10; i++) rare.push(await time(call, WAITS['await data()'], true));
  cells.push(spread(rare.map(({ result }) => result)));
  return cells;
}

function calls(): { [name: string]: Call } {
  const layer = new MoELayer(SHAPE);
  const { experts, topK, hidden } = SHAPE;
  const x = tensor(
    Float32Array.from({ length: hidden }, (_, i) => Math.sin(i)),
    [1, hidden],
  );
  const {
    'router.weight': weight,
    'experts.gate_up': gateUp,
    'experts.down': down,
  } = layer.parameters as {
    [name: string]: Tensor;
  };
  const { indices, weights } = route({ x, weight: weight!, topK });
  const { rows, dispatch: permutation } = permute({ x, indices, experts });
  const { offsets } = permutation;
  return {
    'MoELayer.forward': () => layer.forward(x),
    moeForward: () => {
      const { y, routing } = moeForward({
        x,
        router: { weight: weight!, topK },
        experts: { gateUp: gateUp!, down: down! },
      });
      return { y, routing };
    },
    route: () => route({ x, weight: weight!, topK }),
    dispatch: () => dispatch({ indices, experts }),
    groupedMatmul: () => groupedMatmul({ rows, weight: gateUp!, offsets, activation: 'swiglu' }),
    unpermute: () => unpermute({ rows, dispatch: permutation, weights }),
    cast: () => x.cast('bfloat16'),
  };
}

printLine(
  `T 1, H 64, I 64, E 4, K 2, float32; microseconds, median (10th–90th percentile) of ${CALLS} calls`,
);
const table: string[][] = [];
for (const [name, call] of Object.entries(calls())) table.push(await measure(name, call));
printTable(['call', 'enqueue', 'to the result, await', 'dataSync()', 'await, 1 ms apart'], table, [
  'left',
  'right',
  'right',
  'right',
  'right',
]);
