// Where a gradient goes: a new tensor, or added to one that the caller gave.

import { checkTensor } from '../check.ts';
import type { DType } from '../dtype.ts';
import { badArgument } from '../errors.ts';
import { type DeviceName, empty, type Tensor } from '../tensor.ts';

/** A gradient's shape and dtype; undefined where there is none to compute. */
type GradientSpec = { readonly shape: readonly number[]; readonly dtype: DType } | undefined;

/** The tensor a gradient is written to: `into`, where given, or a new one. */
export function gradient(
  own: (tensor: Tensor) => Tensor,
  name: string,
  like: GradientSpec,
  into: Tensor | undefined,
  device: DeviceName,
): Tensor | undefined {
  checkInto(name, like, into);
  return into ?? (like && own(empty(like.shape, { dtype: like.dtype, device })));
}

/** `into`, where given, must have the gradient's shape, and its dtype or float32. */
export function checkInto(name: string, like: GradientSpec, into: Tensor | undefined): void {
  if (into === undefined) return;
  if (like === undefined) {
    throw badArgument('ERR_INVALID_ARGUMENT', name, 'nothing: this gradient is not computed', 'a tensor');
  }
  checkTensor(name, into, { shape: like.shape, dtype: ['float32', like.dtype] });
}

/** Names under which something is given: gradients that are added to. */
export function givenNames(into: Readonly<Record<string, unknown>>): ReadonlySet<string> {
  return new Set(Object.keys(into).filter(name => into[name] !== undefined));
}
