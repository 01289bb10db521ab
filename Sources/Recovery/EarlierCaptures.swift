import Core
import DriverKit
import IO
import Vault

/// Finds what a capture may lean on: the newest copy of the store in the repository, whichever point it was taken for.
struct EarlierCaptures: Sendable {
  var vault: Repository
  var pool: BlockingPool

  func newest(of store: StoreName, _ member: PointTaker.Member) async throws(AnyFailure) -> EarlierCapture? {
    do {
      let tags: Set<String> = ["salvor", "store:\(store)", "driver:\(member.kind)"]
      let copies = try await vault.snapshots().filter {
        tags.isSubset(of: $0.snapshot.tags) && !$0.snapshot.tags.contains(LogArchive.tag)
      }
      guard let newest = copies.max(by: { $0.snapshot.time < $1.snapshot.time }) else { return nil }
      let tree = SnapshotTree(reader: vault, root: newest.snapshot.tree, pool: pool)
      let bytes = try await tree.contents(of: TreePath("salvor/\(store).json"), limitBytes: 16 << 20)
      let result = try CanonicalJSON.decode(CaptureResult.self, from: bytes)
      let (vault, pool, follower) = (vault, pool, member.driver.follower())
      return EarlierCapture(
        result: result, tree: EarlierSnapshot(tree, below: TreePath([FileName(store.text)]))
      ) { (position) async throws(AnyFailure) in
        guard let follower else { return nil }
        do {
          let archive = LogArchive(vault: vault, store: store, pool: pool)
          for chain in try await archive.list().chains.reversed() {
            guard let from = follower.cursor(of: position, in: result, among: chain.extents.map(\.file)),
              chain.place(of: from) != nil
            else { continue }
            return ArchivedLog(from: from, through: chain.end.cursor) { () throws(AnyFailure) in archive }
          }
          return nil
        } catch { throw AnyFailure(error) }
      }
    } catch { throw AnyFailure(error) }
  }
}
