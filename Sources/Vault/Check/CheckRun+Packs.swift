import Core
import IO
import Synchronization

extension CheckRun {
  /// Compares what indexes say about each pack with its size.
  func comparePacks(_ index: Index) async throws(VaultError) -> [Pack] {
    let listed = try await list(.data)
    var sizes: [Digest: Int] = [:]
    for info in listed { if let id = info.name.id { sizes[id] = info.sizeBytes } }
    var packs: [Pack] = []
    for (id, listing) in index.packs.sorted(by: { $0.key < $1.key }) {
      let blobs = Self.distinct(listing)
      guard let size = sizes.removeValue(forKey: id) else {
        add(CheckFinding(.packMissing(id)))
        continue
      }
      let expected = blobs.reduce(PackHeader.sizeBytes(blobs)) { $0 + $1.length }
      if size < expected {
        add(CheckFinding(.packTruncated(id, sizeBytes: size, neededBytes: expected)))
        continue
      }
      if size > expected { add(CheckFinding(.packCorrupt(id, bytes: expected..<size, "the indexes know of less"))) }
      if Set(blobs.map(\.kind)).count > 1, repository.config.version > 1 { add(.mixedPack(id)) }
      packs.append(Pack(id: id, sizeBytes: size, blobs: blobs))
    }
    for (id, size) in sizes.sorted(by: { $0.key < $1.key }) { add(.unindexedPack(id, bytes: size)) }
    report.withLock { report in
      report.packs = listed.count
      report.blobs = BlobKind.allCases.reduce(0) { $0 + index.blobs.count($1) }
    }
    return packs
  }

  /// Ascending by place, each once; indexes list them so as a rule.
  private static func distinct(_ listing: [PackedBlob]) -> [PackedBlob] {
    func precedes(_ a: PackedBlob, _ b: PackedBlob) -> Bool { (a.offset, a.id) < (b.offset, b.id) }
    if zip(listing, listing.dropFirst()).allSatisfy({ $0.offset < $1.offset }) { return listing }
    return Array(Set(listing)).sorted(by: precedes)
  }

  /// Compares each pack's header with the indexes; reads and verifies every blob if asked to.
  func readPacks(_ packs: [Pack], _ index: Index, whole: Bool) async throws(VaultError) {
    let done = Tally()
    try await inParallel(packs, limit: repository.settings.downloads) { [self] (pack) throws(VaultError) in
      // Without reading it all, the end will do. The size agrees with the indexes, so the header has the length they
      // imply.
      let headerBytes = PackHeader.sizeBytes(pack.blobs)
      let range = (whole ? 0 : pack.sizeBytes - headerBytes)..<pack.sizeBytes
      do throws(VaultError) {
        try await repository.pages.with(range.count) { (pages) throws(VaultError) in
          try await get(pack, range, into: pages)
          let findings = try await repository.computing { [repository] () throws(VaultError) in
            try repository.codecs.with { (codec) throws(VaultError) in
              guard whole else { return pack.verifyHeader(Array(pages.bytes), codec).map { [$0] } ?? [] }
              // Trees are open now: what they refer to need not be read once more.
              return pack.verify(pages.bytes, codec) { self.trees.note($0, $1, index) }
            }
          }
          for finding in findings { add(CheckFinding(finding)) }
          if whole {
            report.withLock { report in
              report.readBytes += range.count
              report.readPacks += 1
            }
            await verified(pack.id, findings.isEmpty)
          }
        }
      } catch {
        guard error.isDamage else { throw error }
        add(CheckFinding(error))
        await verified(pack.id, false)
      }
      progress(CheckProgress(phase: whole ? .data : .packs, done: done.next(), total: packs.count))
    }
  }

  private func get(_ pack: Pack, _ range: Range<Int>, into pages: PageBuffer) async throws(VaultError) {
    try await repository.read(range, of: pack.id, into: pages)
  }
}

/// Counts what parallel tasks have finished.
final class Tally: Sendable {
  private let count = Atomic(0)
  func next() -> Int { count.add(1, ordering: .relaxed).newValue }
}

extension CheckRun.Pack {
  /// Every way in which a whole pack isn't what its name and the indexes say.
  ///
  /// - Parameter tree: Called for each tree that is right.
  func verify(
    _ bytes: UnsafeRawBufferPointer, _ codec: Codec, tree: (BlobID, [UInt8]) -> Void = { _, _ in }
  ) -> [VaultError] {
    var findings: [VaultError] = []
    var hash = codec.inspect(bytes, blobs) { blob, fault in
      findings.append(.packCorrupt(id, bytes: blob.range, "\(blob.kind) blob \(blob.id.short): \(fault.reason)"))
    } sound: { blob, plaintext in
      if blob.kind == .tree { tree(blob.id, Array(plaintext)) }
    }
    let tail = Array(bytes.suffix(PackHeader.sizeBytes(blobs)))
    if let finding = verifyHeader(tail, codec) { findings.append(finding) }
    if findings.isEmpty, hash.finish() != id {
      findings.append(.packCorrupt(id, bytes: 0..<bytes.count, "its content has another hash"))
    }
    return findings
  }

  /// - Parameter tail: As many bytes as the header and the trailer have if the indexes are right.
  func verifyHeader(_ tail: [UInt8], _ codec: Codec) -> VaultError? {
    let range = (sizeBytes - tail.count)..<sizeBytes
    func damaged(_ reason: String) -> VaultError { .packCorrupt(id, bytes: range, "header: " + reason) }
    guard tail.count > PackHeader.trailerBytes else { return damaged("it is cut off") }
    let sealedBytes = tail.count - PackHeader.trailerBytes
    guard PackHeader.number(tail, at: sealedBytes) == sealedBytes else {
      return damaged("its length is not what the indexes imply")
    }
    do throws(CodecFault) {
      let header = try codec.open(Array(tail[..<sealedBytes]))
      switch PackHeader.decode(header) {
      case .failure(let fault): return damaged(fault.reason)
      case .success(let listed):
        return listed.sorted { ($0.offset, $0.id) < ($1.offset, $1.id) } == blobs
          ? nil : damaged("it lists other blobs than the indexes")
      }
    } catch { return damaged(error.reason) }
  }
}
