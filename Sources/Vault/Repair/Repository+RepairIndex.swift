import Core
import IO
import Synchronization

/// What a repair of the indexes found and did.
package struct IndexRepairReport: Sendable {
  package var packs = 0
  /// Packs that no index listed as they are; read from their own headers.
  package var packsRead = 0
  /// Packs whose header can't be read: what they hold stays out of the index.
  package var unreadable: [Report] = []
  /// Packs that indexes listed and that aren't there.
  package var packsMissing = 0
  package var indexesDamaged = 0
  package var indexesWritten = 0
  package var indexesRemoved = 0

  package var isChanged: Bool { indexesWritten > 0 || indexesRemoved > 0 }
}

extension Repository {
  /// Makes the indexes say what the packs say.
  ///
  /// Packs carry in their headers all that an index does. Where an index agrees with a pack's size it is believed, unless
  /// `readsAllPacks`; every other pack's header is read. New indexes are durable before old ones go. Call it inside
  /// ``withLock(exclusive:wait:loadingIndex:_:)``, exclusive, without loading the index.
  ///
  /// - Throws: Only what keeps it from working; a pack that can't be read is reported and left where it is.
  package func repairIndex(
    readsAllPacks: Bool = false, isDryRun: Bool = false,
    progress: @escaping @Sendable (_ done: Int, _ total: Int) -> Void = { _, _ in }
  ) async throws(VaultError) -> IndexRepairReport {
    var report = IndexRepairReport()
    var listed: [Digest: Int] = [:]
    for info in try await access({ store throws(StoreError) in try await store.list(.data) }) {
      if let id = info.name.id { listed[id] = info.sizeBytes }
    }
    let sizes = listed
    report.packs = sizes.count
    // Packs in an index that is right about them; such an index may stay.
    var settled: Set<Digest> = []
    var missing: Set<Digest> = []
    var (outdated, pending): ([Digest], [IndexedPack]) = ([], [])
    for id in try await access({ store throws(StoreError) in try await store.list(.index) }).compactMap(\.name.id) {
      guard let packs = try await packsIfReadable(index: id) else {
        report.indexesDamaged += 1
        outdated.append(id)
        continue
      }
      var right: [IndexedPack] = []
      for pack in packs {
        guard let size = sizes[pack.id] else {
          missing.insert(pack.id)
          continue
        }
        let agrees = pack.blobs.reduce(PackHeader.sizeBytes(pack.blobs)) { $0 + $1.length } == size
        if agrees, !readsAllPacks, settled.insert(pack.id).inserted { right.append(pack) }
      }
      if right.count == packs.count { continue }
      outdated.append(id)
      pending += right
    }
    report.packsMissing = missing.count

    let unsettled = sizes.keys.filter { !settled.contains($0) }.sorted()
    let found = Mutex((packs: [IndexedPack](), unreadable: [Report]()))
    let tally = Tally()
    try await inParallel(unsettled, limit: settings.downloads) { [self] (id) throws(VaultError) in
      do throws(VaultError) {
        let pack = IndexedPack(id: id, blobs: try await readHeader(of: id, sizeBytes: sizes[id] ?? 0))
        found.withLock { $0.packs.append(pack) }
      } catch {
        guard error.isDamage else { throw error }
        let report = error.report
        found.withLock { $0.unreadable.append(report) }
      }
      progress(tally.next(), unsettled.count)
    }
    let (read, unreadable) = found.withLock { ($0.packs.sorted { $0.id < $1.id }, $0.unreadable) }
    report.packsRead = read.count
    report.unreadable = unreadable.sorted { $0.summary < $1.summary }
    pending += read
    report.indexesRemoved = outdated.count
    var files: [[IndexedPack]] = []
    var blobs = 0
    for pack in pending {
      if files.isEmpty || blobs >= settings.indexBlobs {
        files.append([])
        blobs = 0
      }
      files[files.count - 1].append(pack)
      blobs += pack.blobs.count
    }
    report.indexesWritten = files.count
    if isDryRun { return report }
    for packs in files { _ = try await writeConfirmed(.index, IndexFile.encode(packs)) }
    for id in outdated {
      do throws(StoreError) { try await store.delete(ObjectName(.index, id)) } catch {
        guard case .notFound = error else { throw VaultError(error) }
      }
    }
    try await refreshIndex()
    return report
  }

  /// - Returns: `nil` for an index that is damaged.
  private func packsIfReadable(index id: Digest) async throws(VaultError) -> [IndexedPack]? {
    do throws(VaultError) {
      let json = try await readFile(.index, id) { VaultError.indexDamaged($0, $1) }
      var packs: [IndexedPack] = []
      do throws(JSONFault) {
        try IndexFile.decode(json) { (pack, blobs) throws(JSONFault) in
          packs.append(IndexedPack(id: pack, blobs: blobs))
        }
      } catch { throw .indexDamaged(id, error.reason) }
      return packs
    } catch {
      switch error {
      case .indexDamaged: return nil
      // Gone since it was listed.
      case .store(.notFound): return nil
      default: throw error
      }
    }
  }

  /// The blobs a pack says it holds, at its own word.
  private func readHeader(of pack: Digest, sizeBytes: Int) async throws(VaultError) -> [PackedBlob] {
    let trailer = try await tail(PackHeader.trailerBytes, of: pack, sizeBytes)
    let length = PackHeader.number(trailer, at: 0)
    guard length > Cipher.overheadBytes, length <= PackHeader.limitBytes, length + PackHeader.trailerBytes < sizeBytes
    else { throw .packCorrupt(pack, bytes: 0..<sizeBytes, "header: its length can't be") }
    let end = try await tail(length + PackHeader.trailerBytes, of: pack, sizeBytes)
    let range = (sizeBytes - end.count)..<sizeBytes
    return try await settings.pool.run { [codecs] () throws(VaultError) in
      let header: [UInt8]
      do throws(CodecFault) {
        header = try codecs.with { (codec) throws(CodecFault) in try codec.open(Array(end[..<length])) }
      } catch { throw .packCorrupt(pack, bytes: range, "header: \(error.reason)") }
      switch PackHeader.decode(header) {
      case .failure(let fault): throw .packCorrupt(pack, bytes: range, "header: \(fault.reason)")
      case .success(let blobs):
        guard blobs.reduce(PackHeader.sizeBytes(blobs), { $0 + $1.length }) == sizeBytes else {
          throw .packCorrupt(pack, bytes: 0..<sizeBytes, "header: its blobs don't add up to the pack")
        }
        return blobs
      }
    }
  }

  private func tail(_ count: Int, of pack: Digest, _ sizeBytes: Int) async throws(VaultError) -> [UInt8] {
    guard count <= sizeBytes else { throw .packTruncated(pack, sizeBytes: sizeBytes, neededBytes: count) }
    let range = (sizeBytes - count)..<sizeBytes
    return try await bytes(range, of: pack)
  }
}
