// Experts over grouped rows, down(activation(up(x))), forward and backward, in any layout, with low-rank pairs or without.

import type { Activation } from '../../src/activation.ts';
import {
  type ActivationNumbers,
  columnsPerOutput,
  referenceActivation,
  referenceActivationBackward,
} from './activation.ts';
import { type Placement, place, take, upRows } from './layout.ts';
import type { Precision } from './precision.ts';
import {
  type Projection,
  type ProjectionGradients,
  referenceProjection,
  referenceProjectionBackward,
} from './projection.ts';

export interface ExpertsConfig extends ActivationNumbers {
  hidden: number;
  intermediate: number;
  experts: number;
  activation: Activation;
  /** How the rows of a packed gate_up, of its bias and of its pair's B lie. Default `concatenated`. */
  gateUpLayout?: 'concatenated' | 'interleaved';
  /** Matrices are stored [E, in, out]; biases and pairs are not concerned. Default false. */
  transposed?: boolean;
  /** What low-rank pairs' products are multiplied by. Default 1. */
  loraScale?: number;
}

/** By published name. */
export type Parameters = { [name: string]: Float64Array };

export interface ReferenceExperts {
  /** [R, H] */
  outputs: Float64Array;
  /** The gradients of the rows and, by name, of the parameters: of low-rank pairs alone where there is one. */
  backward(dOutputs: Float64Array): { dRows: Float64Array; gradients: Parameters };
}

/** A matrix as it is stored, and its place in its projection's. */
interface NamedMatrix {
  name: string;
  placement: Placement;
}

/** A projection, and the matrices it was put together from. */
interface NamedProjection extends Projection {
  matrices: readonly NamedMatrix[];
  /** Those with a pair, in the order of `pairs`. */
  adapted: readonly NamedMatrix[];
}

/** `prefix` is what the parameters' names begin with: `experts` or `shared`. Group e is rows offsets[e] … offsets[e+1]−1. */
export function referenceExperts(
  config: ExpertsConfig,
  parameters: Parameters,
  prefix: string,
  rows: Float64Array,
  offsets: ArrayLike<number>,
  precision: Precision,
): ReferenceExperts {
  const { activation, intermediate } = config;
  const [up, down] = projections(config, parameters, prefix, offsets);
  const pre = referenceProjection(rows, up, precision);
  const activated = referenceActivation(activation, pre.out, intermediate, precision, config);
  const out = referenceProjection(activated, down, precision);
  return {
    outputs: out.out,
    backward: dOutputs => {
      const ofDown = referenceProjectionBackward(dOutputs, activated, out.low, down, precision);
      const { dRows: dActivated } = ofDown;
      const dPre = referenceActivationBackward(
        activation,
        pre.out,
        intermediate,
        dActivated,
        precision,
        config,
      );
      const ofUp = referenceProjectionBackward(dPre, rows, pre.low, up, precision);
      const frozen = up.pairs.length + down.pairs.length > 0;
      const named = frozen ? pairGradients : weightGradients;
      return { dRows: ofUp.dRows, gradients: { ...named(up, ofUp), ...named(down, ofDown) } };
    },
  };
}

function projections(
  config: ExpertsConfig,
  parameters: Parameters,
  prefix: string,
  offsets: ArrayLike<number>,
): [up: NamedProjection, down: NamedProjection] {
  const { activation, intermediate, hidden, gateUpLayout = 'concatenated' } = config;
  const rowsOfUp = upRows(activation, intermediate, gateUpLayout);
  const rowsOfDown = { down: Array.from({ length: hidden }, (_, row) => row) };
  const upGroups = { offsets, width: columnsPerOutput(activation) * intermediate, inner: hidden };
  const downGroups = { offsets, width: hidden, inner: intermediate };
  return [
    namedProjection(config, parameters, prefix, rowsOfUp, upGroups),
    namedProjection(config, parameters, prefix, rowsOfDown, downGroups),
  ];
}

function namedProjection(
  { experts, transposed, loraScale = 1 }: ExpertsConfig,
  parameters: Parameters,
  prefix: string,
  rowsOf: { readonly [name: string]: readonly number[] },
  groups: Projection['groups'],
): NamedProjection {
  const { width, inner } = groups;
  const matrices = Object.entries(rowsOf)
    .map(([name, rows]) => ({
      name: `${prefix}.${name}`,
      placement: { experts, rows, width, inner, transposed },
    }))
    .filter(({ name }) => parameters[name]);
  const adapted = matrices.filter(({ name }) => parameters[`${name}.lora_a`]);
  const pairs = adapted.map(({ name, placement }) => {
    const [a, b] = [parameters[`${name}.lora_a`]!, parameters[`${name}.lora_b`]!];
    const rank = b.length / (experts * placement.rows.length);
    const whole = new Float64Array(experts * width * rank);
    place(b, columns(placement, rank), whole);
    return { rank, a, b: whole };
  });
  const weight = new Float64Array(experts * width * inner);
  for (const { name, placement } of matrices) place(parameters[name]!, placement, weight);
  const biased = matrices.filter(({ name }) => parameters[`${name}_bias`]);
  const bias = biased.length > 0 ? new Float64Array(experts * width) : undefined;
  for (const { name, placement } of biased) place(parameters[`${name}_bias`]!, columns(placement, 1), bias!);
  return { groups, weight, bias, pairs, scale: loraScale, matrices, adapted };
}

/** The same rows of a matrix of so many columns that is never transposed: a bias, or a pair's B. */
const columns = (placement: Placement, inner: number): Placement => ({
  ...placement,
  inner,
  transposed: false,
});

function weightGradients({ matrices, bias }: NamedProjection, of: ProjectionGradients): Parameters {
  const gradients: Parameters = {};
  for (const { name, placement } of matrices) {
    gradients[name] = take(of.dWeight, placement);
    if (bias) gradients[`${name}_bias`] = take(of.dBias, columns(placement, 1));
  }
  return gradients;
}

function pairGradients({ adapted, pairs }: NamedProjection, of: ProjectionGradients): Parameters {
  const gradients: Parameters = {};
  for (const [i, { name, placement }] of adapted.entries()) {
    gradients[`${name}.lora_a`] = of.pairs[i]!.dA;
    gradients[`${name}.lora_b`] = take(of.pairs[i]!.dB, columns(placement, pairs[i]!.rank));
  }
  return gradients;
}
