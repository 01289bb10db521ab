import Core

extension Repository {
  /// Looks whether everything every snapshot needs is there, reading as much of it as asked for.
  ///
  /// Relies on nothing this session knows: snapshots and indexes are read afresh. It reads the snapshots, indexes, trees
  /// and each pack's header; of the packs that are chosen every byte: pack hashes, authentication, compression and the
  /// hash of every blob. Call it inside ``withLock(exclusive:wait:loadingIndex:_:)``, without loading the index.
  ///
  /// - Parameters:
  ///   - log: What was read before; decides only which packs are chosen.
  ///   - verified: Told of each pack that was read whole, and whether it was right.
  /// - Throws: Only what keeps it from looking, such as a store that doesn't answer; damage is a finding.
  package func check(
    reading: ReadSelection = .none, log: VerificationLog = VerificationLog(),
    progress: @escaping @Sendable (CheckProgress) -> Void = { _ in },
    verified: @escaping @Sendable (_ pack: Digest, _ isSound: Bool) async -> Void = { _, _ in }
  ) async throws(VaultError) -> CheckReport {
    let run = CheckRun(self, progress, verified)
    // Snapshots before indexes: what a snapshot seen here needs was indexed before it was written.
    let snapshots = try await run.readSnapshots()
    let index = try await run.readIndexes()
    let packs = try await run.comparePacks(index)
    let chosen = reading.choose(
      of: packs.map { ($0.id, $0.sizeBytes) }, verified: log.packs, randomness: settings.randomness)
    try await run.readPacks(packs.filter { !chosen.contains($0.id) }, index, whole: false)
    try await run.readPacks(packs.filter { chosen.contains($0.id) }, index, whole: true)
    try await run.walkTrees(of: snapshots, index)
    return run.finish(readData: reading == .all, packs: packs)
  }

  /// Every byte, or none of the content.
  package func check(
    readData: Bool, progress: @escaping @Sendable (CheckProgress) -> Void = { _ in }
  ) async throws(VaultError) -> CheckReport {
    try await check(reading: readData ? .all : .none, progress: progress)
  }
}
