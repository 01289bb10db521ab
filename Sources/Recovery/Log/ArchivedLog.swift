import Core
import DriverKit
import IO
import Vault

/// A part of a store's log, for a restore: from a copy's mark to a place that is known to be there.
package actor ArchivedLog: LogSource {
  private let open: @Sendable () async throws(AnyFailure) -> LogArchive
  private let from: LogCursor
  private let through: LogCursor
  /// Read once: what is joined meanwhile keeps its blobs until a prune, which waits for the restore.
  private var loaded: Loaded?

  /// - Parameters:
  ///   - from: The copy's mark.
  ///   - through: Where what is lent ends.
  ///   - open: Called when the log is first read, if it ever is.
  package init(
    from: LogCursor, through: LogCursor, open: @escaping @Sendable () async throws(AnyFailure) -> LogArchive
  ) {
    (self.from, self.through, self.open) = (from, through, open)
  }

  private struct Part: Sendable {
    var extent: LogExtent
    var stored: StoredSpan
  }

  private struct Loaded: Sendable {
    var archive: LogArchive
    var chain: LogChain
    /// The stretches' own extents, cut where what is lent ends.
    var parts: [Part]
  }

  private func load() async throws -> Loaded {
    if let loaded { return loaded }
    let archive = try await open()
    let listing = try await archive.list()
    for chain in listing.chains.reversed() {
      guard let a = chain.place(of: from), let b = chain.place(of: through), a <= b else { continue }
      let found = Loaded(archive: archive, chain: chain, parts: Self.parts(of: chain, a, b))
      loaded = found
      return found
    }
    throw RecoveryError.logBroken(archive.store, from: from.description, to: through.description)
  }

  private static func parts(of chain: LogChain, _ first: LogPlace, _ last: LogPlace) -> [Part] {
    var parts: [Part] = []
    var merged: [LogExtent] = []
    for stored in chain.spans {
      for var extent in stored.span.extents {
        merged.add(extent)
        let index = merged.count - 1
        if index > last.extent { return parts }
        if index == last.extent {
          guard extent.from < last.offset else { return parts }
          extent.to = min(extent.to, last.offset)
        }
        if index < first.extent || (index == first.extent && extent.to <= first.offset) { continue }
        parts.append(Part(extent: extent, stored: stored))
      }
    }
    return parts
  }

  package func extents() async throws(AnyFailure) -> [LogExtent] {
    do {
      var result: [LogExtent] = []
      for part in try await load().parts { result.add(part.extent) }
      return result
    } catch { throw AnyFailure(error) }
  }

  package func attachments() async throws(AnyFailure) -> [String] {
    do {
      return Set(try await load().chain.spans.flatMap(\.span.attachments)).sorted()
    } catch { throw AnyFailure(error) }
  }

  package func attachment(_ name: String, limitBytes: Int) async throws(AnyFailure) -> [UInt8] {
    do {
      let (archive, chain) = (try await load().archive, try await load().chain)
      guard let stored = chain.spans.last(where: { $0.span.attachments.contains(name) }) else {
        throw RecoveryError.logDamaged(archive.store, "it has no \(name)")
      }
      let tree = SnapshotTree(reader: archive.vault, root: stored.tree, pool: archive.pool)
      return try await tree.contents(of: archive.path(ofAttached: name), limitBytes: limitBytes)
    } catch { throw AnyFailure(error) }
  }

  package func read(
    _ wanted: LogExtent, _ each: @escaping @Sendable (_ offset: Int64, _ bytes: [UInt8]) async throws -> Void
  ) async throws(AnyFailure) {
    do {
      let (archive, parts) = (try await load().archive, try await load().parts)
      var places: [BlobID: [(offset: Int64, limit: Int64)]] = [:]
      for part in parts where part.extent.file == wanted.file {
        guard part.extent.from >= wanted.from, part.extent.from < wanted.to else { continue }
        let tree = SnapshotTree(reader: archive.vault, root: part.stored.tree, pool: archive.pool)
        var offset = part.extent.from
        for id in try await tree.node(at: archive.path(of: part.extent, in: part.stored.span))?.content ?? [] {
          guard let length = archive.vault.length(.data, id) else { throw VaultError.blobMissing(.data, id) }
          if offset < part.extent.to { places[id, default: []].append((offset, part.extent.to)) }
          offset += Int64(length)
        }
        guard offset >= part.extent.to else {
          throw RecoveryError.logDamaged(
            archive.store, "\(part.extent.file)+\(part.extent.from) is shorter than recorded")
        }
      }
      let wantedPlaces = places
      try await archive.vault.loadMany(.data, places.keys.sorted(), parallel: 4) {
        (id, bytes) async throws(VaultError) -> Void in
        for place in wantedPlaces[id] ?? [] {
          let count = min(Int64(bytes.count), place.limit - place.offset)
          do {
            try await each(place.offset, count == bytes.count ? bytes : Array(bytes[..<Int(count)]))
          } catch { throw VaultError.outside(AnyFailure(error)) }
        }
      }
    } catch { throw AnyFailure(error) }
  }
}
