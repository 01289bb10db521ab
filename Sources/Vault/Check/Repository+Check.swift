import Core

extension Repository {
  /// Looks whether everything every snapshot needs is there, reading it all if asked to.
  ///
  /// Relies on nothing this session knows: snapshots and indexes are read afresh. Without `readData` it reads the
  /// snapshots, indexes, trees and each pack's header; with it every byte: pack hashes, authentication, compression
  /// and the hash of every blob. Call it inside ``withLock(exclusive:wait:loadingIndex:_:)``, without loading the index.
  ///
  /// - Throws: Only what keeps it from looking, such as a store that doesn't answer; damage is a finding.
  package func check(
    readData: Bool, progress: @escaping @Sendable (CheckProgress) -> Void = { _ in }
  ) async throws(VaultError) -> CheckReport {
    let run = CheckRun(self, progress)
    // Snapshots before indexes: what a snapshot seen here needs was indexed before it was written.
    let snapshots = try await run.readSnapshots()
    let index = try await run.readIndexes()
    let packs = try await run.comparePacks(index)
    try await run.readPacks(packs, whole: readData)
    try await run.walkTrees(of: snapshots, index)
    return run.finish(readData: readData)
  }
}
