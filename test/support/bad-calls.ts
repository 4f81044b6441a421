// Wrong calls as data: what is called, and the exact error that must come of it, at the call, with nothing leaked or enqueued.

import { describe, expect, test } from 'vitest';
import {
  type DType,
  type ErrorCode,
  MoeError,
  memory,
  synchronize,
  type Tensor,
  tensor,
} from '../../src/index.ts';
import { seeded } from './random.ts';
import { upload } from './tensors.ts';

/** `arrange` makes what the call needs; the function it returns makes the call. */
export type BadCall = [
  title: string,
  arrange: () => () => unknown,
  code: ErrorCode,
  message: string | RegExp,
];

export function describeBadCalls(name: string, calls: readonly BadCall[]): void {
  describe(name, () => {
    test.each(calls)('%s', (_, arrange, code, message) => {
      const call = arrange();
      const before = memory().tensors;
      let caught: unknown;
      try {
        call();
      } catch (error) {
        caught = error;
      }
      expect(caught).toBeInstanceOf(MoeError);
      const { code: foundCode, message: found } = caught as MoeError;
      if (typeof message === 'string') expect(found).toBe(message);
      else expect(found).toMatch(message);
      expect(foundCode).toBe(code);
      expect(memory().tensors, 'live tensors').toBe(before);
      synchronize();
    });
  });
}

/** A float tensor of that shape, holding unit-scale numbers. */
export function floats(shape: readonly number[], dtype: DType = 'float32'): Tensor {
  return upload(seeded(1).normals(shape.reduce((a, b) => a * b, 1)), shape, dtype);
}

export function ints(shape: readonly number[]): Tensor {
  return upload(new Int32Array(shape.reduce((a, b) => a * b, 1)), shape, 'int32');
}

export function disposed(of: Tensor): Tensor {
  of.dispose();
  return of;
}

/** Part of the runtime, but not of the configured type libraries. */
declare const WebAssembly: {
  Memory: new (size: { initial: number }) => { buffer: ArrayBuffer; grow(pages: number): void };
};

/** A zero-copy tensor whose buffer is gone: growing WebAssembly memory detaches the buffer it had. */
export function detached(shape: readonly number[]): Tensor {
  const pages = new WebAssembly.Memory({ initial: 1 });
  const length = shape.reduce((a, b) => a * b, 1);
  const shared = tensor(new Float32Array(pages.buffer, 0, length), shape, { copy: false });
  pages.grow(1);
  return shared;
}

/** A tensor that says it lives elsewhere. */
export function onOtherDevice(of: Tensor): Tensor {
  return Object.assign(of, { device: 'cuda:7' });
}

/** A call of `op` with good arguments, some replaced. `change` runs before the call is made. */
export function using(
  op: (args: never) => unknown,
  good: () => object,
  change: () => object,
): () => () => unknown {
  return () => {
    const args = { ...good(), ...change() };
    return () => op(args as never);
  };
}
