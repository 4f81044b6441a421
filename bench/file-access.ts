// Reading and writing the files that a command names; where that fails, the sentence that says so.

import { badArgument } from '../src/errors.ts';

/**
 * @param name what the sentence of an error begins with
 * @throws MoeError ERR_FILE if `read` fails
 */
export function reading<T>(name: string, path: string, read: () => T): T {
  return access(name, path, 'a readable file', read);
}

/** As {@link reading}, of a file that is written. */
export function writing<T>(name: string, path: string, write: () => T): T {
  return access(name, path, 'a writable file', write);
}

function access<T>(name: string, path: string, expected: string, act: () => T): T {
  try {
    return act();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw badArgument('ERR_FILE', name, expected, `${path} (${code ?? message})`);
  }
}
