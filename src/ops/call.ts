// How every op reaches the addon: tensors become native handles by name, the rest passes through.

import { type NativeArgs, type NativeOp, native } from '../native.ts';
import { callNative, Tensor, useHandle } from '../tensor.ts';

/** Arguments of an op before tensors are turned into handles. */
export type OpArgs = Record<string, Tensor | number | boolean | undefined>;

/**
 * Enqueues a native op. Tensors must have been checked; a missing optional one is `undefined`. The arguments come in parts, of which
 * a later one has the last word: spread into one object of so many properties they would keep the garbage collector busy.
 */
export function enqueue(op: NativeOp, ...parts: readonly OpArgs[]): void {
  const nativeArgs: NativeArgs = {};
  for (const args of parts) {
    for (const name in args) {
      const value = args[name];
      nativeArgs[name] = value instanceof Tensor ? useHandle(name, value) : value;
    }
  }
  callNative(() => native[op](nativeArgs));
}

/** Runs `body`, which collects the tensors it creates; if it throws, they are disposed, so a failed call leaks nothing. */
export function disposeOnError<T>(body: (own: (tensor: Tensor) => Tensor) => T): T {
  const created: Tensor[] = [];
  const own = (tensor: Tensor) => {
    created.push(tensor);
    return tensor;
  };
  try {
    return body(own);
  } catch (error) {
    for (const tensor of created) tensor.dispose();
    throw error;
  }
}
