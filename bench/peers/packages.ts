// The peers' own packages: in this folder's node_modules, of the versions that its lock file pins, fetched on first use.

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { packageRoot } from '../../src/package.ts';

const FOLDER = join(packageRoot(), 'bench/peers');

/** A file of this folder, which compiled code does not lie in. */
export function peerFile(name: string): string {
  return join(FOLDER, name);
}

interface Manifest {
  readonly version: string;
  readonly dependencies: Readonly<Record<string, string>>;
}

function readManifest(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
}

const installed = (name: string) => join(FOLDER, 'node_modules', name);

export function peerVersion(name: string): string {
  return readManifest(installed(name)).version;
}

/** Imports a package that only the peers have; its type is what the caller says. */
export async function importPeer<T>(name: string): Promise<T> {
  const path = createRequire(peerFile('package.json')).resolve(name);
  const { default: module } = (await import(pathToFileURL(path).href)) as { default: T };
  return module;
}

/** Runs `npm ci` unless everything is there; no install script of any package runs. Returns what went wrong, if anything. */
export function fetchPeers(): string | undefined {
  const wanted = Object.entries(readManifest(FOLDER).dependencies);
  const isThere = ([name, version]: [string, string]) =>
    existsSync(join(installed(name), 'package.json')) && peerVersion(name) === version;
  if (wanted.every(isThere)) return undefined;
  process.stderr.write(`Fetching packages to compare with: ${wanted.map(([name]) => name).join(', ')}\n`);
  // What npm prints is no part of this command's output.
  const { status, error } = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
    cwd: FOLDER,
    stdio: ['ignore', 2, 2],
  });
  return status === 0 ? undefined : `npm ci in ${FOLDER} failed: ${error?.message ?? `exit code ${status}`}`;
}
