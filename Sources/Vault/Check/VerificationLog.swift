import Core
import IO

/// When each pack of a repository was last read whole and found right, as one machine knows it.
///
/// Kept sealed with the repository's master key, so that nobody without it can make a pack look verified. Losing it means
/// reading again, nothing else.
package struct VerificationLog: Hashable, Sendable {
  package var packs: [Digest: Timestamp] = [:]

  package init() {}

  /// Nobody has more packs; see ``ObjectListing/limitCount``.
  package static let limitBytes = 64 + ObjectListing.limitCount * entryBytes

  private static let mark = Array("salvor verified\u{1}".utf8)
  private static let entryBytes = 40

  /// Forgets what the repository no longer holds, and what is said to have happened after `now`.
  package mutating func keep(_ listed: Set<Digest>, now: Timestamp) {
    packs = packs.filter { listed.contains($0.key) && $0.value <= now }
  }

  /// Sealed for `repository`: its mark, the repository's id, then a pack's id and nanoseconds since 1970 for each, ascending.
  package func sealed(for repository: Repository) throws(VaultError) -> [UInt8] {
    var plain = Self.mark + repository.config.id.bytes
    plain.reserveCapacity(plain.count + packs.count * Self.entryBytes)
    for (id, time) in packs.sorted(by: { $0.key < $1.key }) {
      plain += id.bytes
      let bits = UInt64(bitPattern: time.nanoseconds)
      for shift in stride(from: 0, to: 64, by: 8) { plain.append(UInt8(truncatingIfNeeded: bits >> UInt64(shift))) }
    }
    let bytes = plain
    return try repository.codecs.with { (codec) throws(VaultError) in try codec.sealPlain(bytes) }
  }

  /// - Returns: `nil` for anything but a log of `repository`, sealed with its key.
  package init?(sealed: [UInt8], for repository: Repository) {
    guard sealed.count <= Self.limitBytes,
      let plain = try? repository.codecs.with({ (codec) throws(CodecFault) in try codec.open(sealed) })
    else { return nil }
    let head = Self.mark + repository.config.id.bytes
    guard plain.starts(with: head), (plain.count - head.count).isMultiple(of: Self.entryBytes) else { return nil }
    for start in stride(from: head.count, to: plain.count, by: Self.entryBytes) {
      guard let id = Digest(bytes: plain[start..<start + 32]) else { return nil }
      var bits: UInt64 = 0
      for index in 0..<8 { bits |= UInt64(plain[start + 32 + index]) << UInt64(8 * index) }
      packs[id] = Timestamp(nanoseconds: Int64(bitPattern: bits))
    }
  }
}

/// How much of a repository was ever, and lately, read whole.
package struct VerificationSummary: Hashable, Sendable {
  package var packs = 0
  package var bytes = 0
  package var verifiedPacks = 0
  package var verifiedBytes = 0
  /// Read whole since the moment asked for.
  package var freshBytes = 0
  /// When the pack that waits longest was read; `nil` if none was.
  package var oldest: Timestamp?

  package init(packs: [(id: Digest, sizeBytes: Int)], log: VerificationLog, since: Timestamp?) {
    for (id, size) in packs {
      self.packs += 1
      bytes += size
      guard let time = log.packs[id] else { continue }
      verifiedPacks += 1
      verifiedBytes += size
      if let since, time >= since { freshBytes += size }
      oldest = min(oldest ?? time, time)
    }
  }
}
