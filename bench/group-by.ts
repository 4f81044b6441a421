// What has the same key, together.

/** In the order in which the groups, and within them the values, come. */
export function groupBy<T, K>(values: readonly T[], keyOf: (value: T) => K): T[][] {
  const groups = new Map<K, T[]>();
  for (const value of values) {
    const key = keyOf(value);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key)!.push(value);
  }
  return [...groups.values()];
}
