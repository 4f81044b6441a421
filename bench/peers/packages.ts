// Packages that only a peer needs: those of the user's own project where it has them, else of the versions that the peer's lock file
// pins, fetched on first use into the user's cache.

import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { promisify } from 'node:util';
import envPaths from 'env-paths';
import type { Activation } from '../../src/activation.ts';
import { packageRoot } from '../../src/package.ts';
import type { PeerName } from './names.ts';
import { nodeProgram, type Peer, type Say } from './peer.ts';

const MANIFESTS = ['package.json', 'package-lock.json'];

/**
 * A peer whose packages come from npm, and which has the forward pass in float32 on the CPU.
 * @param module the URL of the file that loads it
 */
export function npmPeer(name: PeerName, activations: readonly Activation[], module: string): Peer {
  return {
    ...{ name, activations, dtypes: ['float32'], passes: ['forward'], gpus: false },
    absent: (_, say) => fetchPackages(name, say),
    program: () => nodeProgram(module),
  };
}

/** A file beside the source of this one, where compiled code does not lie. */
export function peerFile(name: string): string {
  return join(packageRoot(), 'bench/peers', name);
}

/** What a folder's package.json says. */
function readManifest(folder: string): { version: string; dependencies: Readonly<Record<string, string>> } {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
}

function pinnedVersions(peer: PeerName): [name: string, version: string][] {
  return Object.entries(readManifest(peerFile(peer)).dependencies);
}

function cacheOf(peer: PeerName): string {
  return join(envPaths('moe-kernels', { suffix: '' }).cache, 'peers', peer);
}

/** Where a program in `folder` would find the package. */
function find(folder: string, name: string): string | undefined {
  const places = createRequire(join(folder, 'package.json')).resolve.paths(name) ?? [];
  return places.map(place => join(place, name)).find(found => existsSync(join(found, 'package.json')));
}

/** The folder that programs would find all the peer's packages from. */
function homeOf(peer: PeerName): string {
  const project = process.cwd();
  return pinnedVersions(peer).every(([name]) => find(project, name)) ? project : cacheOf(peer);
}

export function peerVersion(peer: PeerName, name: string): string {
  return readManifest(find(homeOf(peer), name)!).version;
}

/** Requires one of the peer's packages; its type is what the caller says. */
export function requirePeer<T>(peer: PeerName, name: string): T {
  return createRequire(join(homeOf(peer), 'package.json'))(name) as T;
}

/** Runs `npm ci` unless everything is there; no install script of any package runs. Returns what went wrong, if anything. */
export async function fetchPackages(peer: PeerName, say: Say): Promise<string | undefined> {
  const folder = cacheOf(peer);
  if (homeOf(peer) !== folder || isFetched(peer, folder)) return undefined;
  const list = pinnedVersions(peer).map(([name, version]) => `${name} ${version}`);
  say(`fetching ${list.join(', ')} from the npm registry into ${folder}`);
  try {
    mkdirSync(folder, { recursive: true });
    for (const name of MANIFESTS) copyFileSync(join(peerFile(peer), name), join(folder, name));
    const quietly = ['--ignore-scripts', '--no-audit', '--no-fund', '--fetch-retries=1'];
    await promisify(execFile)('npm', ['ci', ...quietly], { cwd: folder });
    return undefined;
  } catch (error) {
    return `a fetch that failed: ${reasonOf(error as Error & { stderr?: string })}`;
  }
}

/** The list of what npm has installed is the last file that it writes. */
function isFetched(peer: PeerName, folder: string): boolean {
  const isPinned = ([name, version]: [string, string]) => {
    const found = join(folder, 'node_modules', name);
    return existsSync(found) && readManifest(found).version === version;
  };
  return existsSync(join(folder, 'node_modules/.package-lock.json')) && pinnedVersions(peer).every(isPinned);
}

/** The first thing that npm says, or why it could not even start. */
function reasonOf({ message, stderr = '' }: Error & { stderr?: string }): string {
  const said = stderr.split('\n').filter(line => line.startsWith('npm error '));
  const words = said.map(line => line.slice('npm error '.length));
  return words.find(line => line.includes('reason:')) ?? words[0] ?? message;
}
