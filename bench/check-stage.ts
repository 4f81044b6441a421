// Holds what a stage makes of its inputs against the float64 reference before it is timed: indices whole, of products some rows or
// neurons.

import { type Comparison, compare } from '../src/compare.ts';
import type { Tensor } from '../src/tensor.ts';
import { referenceActivation } from '../test/reference/activation.ts';
import { referenceDispatch, referenceUnpermute } from '../test/reference/dispatch.ts';
import { referenceDgrad, referenceMatmul, referenceWgrad } from '../test/reference/grouped-matmul.ts';
import { referenceIdentity } from '../test/reference/identity.ts';
import { type Precision, sum } from '../test/reference/precision.ts';
import { checkRouting, judgeFor, readLayer, someTokens, spread } from './check.ts';
import { expertValues, joinValues, takeRows } from './sample.ts';
import type { Stage, StageInputs } from './stages.ts';

const SAMPLED_ROWS = 4;
const SAMPLED_EXPERTS = 3;
const SAMPLED_COLUMNS = 4;

/** What the samples of a stage are, as it made them and as the reference does. */
interface Samples {
  readonly actual: Float64Array;
  readonly expected: (precision: Precision) => Float64Array;
}

/** Every checked quantity of a stage with its error and bound. */
export async function checkStage(inputs: StageInputs, stage: Stage): Promise<Comparison[]> {
  if (stage === 'route') return checkRouting(await readLayer(inputs.workload, inputs), inputs);
  const made = inputs.run(stage);
  try {
    if (stage === 'dispatch') return await checkDispatch(inputs, made);
    const { actual, expected } = await SAMPLERS[stage](inputs, made[0]!);
    const judge = judgeFor(inputs.workload);
    return judge(new Map([[stage, actual]]), precision => new Map([[stage, expected(precision)]]));
  } finally {
    for (const tensor of made) tensor.dispose();
  }
}

const int32 = async (tensor: Tensor | undefined) => (await tensor?.data()) as Int32Array;

async function checkDispatch(
  { workload, routing }: StageInputs,
  made: readonly Tensor[],
): Promise<Comparison[]> {
  const { indices, dropped, run } = routing;
  const { experts } = workload.shape;
  const expected = referenceDispatch(await int32(indices), indices.shape[1]!, experts, await int32(dropped), {
    rows: run.rows,
  });
  const names = ['offsets', 'rowSlot', 'slotRow'] as const;
  return Promise.all(
    names.map(async (name, i) => {
      const actual = await int32(made[i]);
      const wrong = actual.filter((value, at) => value !== expected[name][at]).length;
      return compare(`dispatch.${name}`, wrong, 0);
    }),
  );
}

type Sampler = (inputs: StageInputs, made: Tensor) => Promise<Samples>;

const SAMPLERS: Readonly<Record<Exclude<Stage, 'route' | 'dispatch'>, Sampler>> = {
  up: (inputs, made) => {
    const { shape, design, experts } = inputs.workload;
    const { activation, intermediate } = shape;
    const weight = (experts.gateUp ?? experts.up)!;
    const bias = experts.gateUpBias ?? experts.upBias;
    return sampleProducts(inputs, inputs.rows, made, weight, (row, values, groups, precision) => {
      const pre = referenceMatmul(row, values, groups, biasOf(bias, groups.expert), precision);
      return referenceActivation(activation, pre, intermediate, precision, design);
    });
  },
  down: (inputs, made) => {
    const { down, downBias } = inputs.workload.experts;
    return sampleProducts(inputs, inputs.activated, made, down, (row, values, groups, precision) =>
      referenceMatmul(row, values, groups, biasOf(downBias, groups.expert), precision),
    );
  },
  dgrad: (inputs, made) => {
    const { gateUp, up } = inputs.workload.experts;
    return sampleProducts(
      inputs,
      inputs.preActivation,
      made,
      (gateUp ?? up)!,
      (row, values, groups, precision) => referenceDgrad(row, values, groups, precision),
    );
  },
  wgrad: sampleWeights,
  combine: sampleSums,
};

const biasOf = (bias: Tensor | undefined, expert: number) =>
  bias && Float64Array.from(expertValues(bias, expert));

type RowProduct = (
  row: Float64Array,
  weight: Float64Array,
  groups: { expert: number; offsets: number[]; width: number; inner: number },
  precision: Precision,
) => Float64Array;

/** Some rows, each with the weight [N, C] of its expert. */
async function sampleProducts(
  { dispatch }: StageInputs,
  taken: Tensor,
  made: Tensor,
  weight: Tensor,
  product: RowProduct,
): Promise<Samples> {
  const offsets = await int32(dispatch.offsets);
  const rows = spread(offsets.at(-1)!, SAMPLED_ROWS);
  const [width, inner] = weight.shape.slice(1) as [number, number];
  const values = await taken.float32();
  return {
    actual: takeRows(await made.float32(), rows, made.shape[1]!),
    expected: precision =>
      joinValues(
        rows.map(row => {
          const expert = offsets.findIndex((end, e) => e > 0 && row < end) - 1;
          const groups = { expert, offsets: [0, 1], width, inner };
          const own = Float64Array.from(expertValues(weight, expert));
          return product(takeRows(values, [row], taken.shape[1]!), own, groups, precision);
        }),
      ),
  };
}

/** Some columns of the gradients of some experts. */
async function sampleWeights({ dispatch, rows, preActivation }: StageInputs, made: Tensor): Promise<Samples> {
  const offsets = await int32(dispatch.offsets);
  const [, width, inner] = made.shape as [number, number, number];
  const experts = spread(made.shape[0]!, SAMPLED_EXPERTS);
  const columns = spread(width, SAMPLED_COLUMNS);
  const [x, dOut] = [await rows.float32(), await preActivation.float32()];
  return {
    actual: joinValues(experts.map(e => takeRows(expertValues(made, e), columns, inner))),
    expected: precision =>
      joinValues(
        experts.map(e => {
          const own = Array.from({ length: offsets[e + 1]! - offsets[e]! }, (_, i) => offsets[e]! + i);
          const elements = own.flatMap(row => columns.map(column => row * width + column));
          const groups = { offsets: [0, own.length], width: columns.length, inner };
          const dRows = takeRows(dOut, elements, 1);
          return referenceWgrad(dRows, takeRows(x, own, inner), groups, precision).dWeight;
        }),
      ),
  };
}

/** Some tokens, with the rows that are theirs. */
async function sampleSums(inputs: StageInputs, made: Tensor): Promise<Samples> {
  const { workload, routing, outputs, dispatch } = inputs;
  const layer = await readLayer(workload, inputs);
  const { hidden } = workload.shape;
  const topK = routing.indices.shape[1]!;
  const tokens = someTokens(layer);
  const places = Int32Array.from(takeRows(await int32(dispatch.slotRow), tokens, topK));
  const used = [...places].filter(row => row >= 0);
  const slotRow = places.map(row => (row >= 0 ? used.indexOf(row) : row));
  const sampled = { slotRow, topK, offsets: new Int32Array(), rowSlot: new Int32Array() };
  const [rows, x] = [takeRows(await outputs.float32(), used, hidden), takeRows(layer.x, tokens, hidden)];
  const weights = takeRows(layer.weights, tokens, topK);
  return {
    actual: takeRows(await made.float32(), tokens, hidden),
    expected: precision =>
      sum(
        precision,
        referenceUnpermute(rows, sampled, hidden, weights, precision),
        referenceIdentity(x, sampled, hidden, weights, precision),
      ),
  };
}
