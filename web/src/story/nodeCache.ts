/** What is known of a story's frames and branches, kept up to date by its events. */
import { type Branch, branchIn, nodeIn, removedIn, type Story, type StoryNode } from "./model";
import { Tree } from "./tree";

export class NodeCache {
  readonly nodes = new Map<number, StoryNode>();
  readonly branches = new Map<number, Branch>();

  fill({ nodes, branches }: Pick<Story, "nodes" | "branches">): void {
    this.nodes.clear();
    this.branches.clear();
    for (const node of nodes) this.nodes.set(node.id, node);
    for (const branch of branches) this.branches.set(branch.id, branch);
  }

  tree(): Tree {
    return new Tree(this.nodes.values(), this.branches.values());
  }

  /** Branches that were ordered; what has been heard of one already is newer. */
  expect(branches: readonly Branch[]): void {
    for (const branch of branches) if (!this.branches.has(branch.id)) this.branches.set(branch.id, branch);
  }

  /**
   * Takes in an event.
   *
   * @returns whether it was one of frames and branches, and the sentence of a branch that has just failed.
   * @throws Error with a sentence when it cannot be read.
   */
  hear(kind: string, data: unknown): { known: boolean; error: string | null } {
    let error: string | null = null;
    if (kind === "node") {
      const node = nodeIn(data);
      this.nodes.set(node.id, node);
    } else if (kind === "branch") {
      const branch = branchIn(data);
      if (!this.branches.get(branch.id)?.error) error = branch.error;
      this.branches.set(branch.id, branch);
    } else if (kind === "removed") {
      this.takeAway(data);
    } else {
      return { known: false, error };
    }
    return { known: true, error };
  }

  private takeAway(data: unknown): void {
    const { nodes, branches, from } = removedIn(data);
    if (from !== null) nodes.push(...this.tree().withDescendants(from));
    for (const id of nodes) this.nodes.delete(id);
    for (const id of branches) this.branches.delete(id);
    const lost = (id: number | null): boolean => id !== null && !this.nodes.has(id);
    for (const { id, from: origin, first } of this.branches.values()) {
      if (lost(origin) || lost(first)) this.branches.delete(id);
    }
  }
}
