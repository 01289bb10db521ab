import Core

/// Why a runbook no longer says what is so.
package struct Stale: Sendable, Equatable, Codable {
  package enum Kind: String, Sendable, Codable {
    case manifests, figure, text, proof, format
  }

  package var kind: Kind
  /// The document, service or file.
  package var subject: String
  package var words: String

  package init(_ kind: Kind, _ subject: String, _ words: String) {
    (self.kind, self.subject, self.words) = (kind, subject, words)
  }
}

extension Edition {
  /// From when on a figure counts as another one.
  package struct Tolerance: Sendable {
    package var share: Double
    package var seconds: Double

    package init(share: Double = 0.25, seconds: Double = 1) { (self.share, self.seconds) = (share, seconds) }
  }

  /// Everything that is no longer so.
  ///
  /// - Parameters:
  ///   - facts: As they are now; `nil` where only the files can be looked at.
  ///   - manifests: Where no more than those is known now.
  ///   - found: What is in the folder, by path.
  package func stale(
    now: Timestamp, facts current: RunbookFacts?, documents: [String: Digest], found: [String: String],
    tolerance: Tolerance = Tolerance()
  ) -> [Stale] {
    var result: [Stale] = []
    if format != RunbookPage.format {
      result.append(
        Stale(.format, format, "was made in format \(format), and this program writes \(RunbookPage.format)"))
    }
    result += Self.changes(facts.documents, documents).map { Stale(.manifests, $0.name, $0.words) }
    if let current { result += figures(current, tolerance) }
    result += texts(found)
    result += proofs(now, current?.figures ?? facts.figures)
    return result
  }

  /// Documents that are new, gone, or say something else.
  static func changes(_ old: [String: Digest], _ new: [String: Digest]) -> [(name: String, words: String)] {
    Set(old.keys).union(new.keys).sorted().compactMap { name in
      switch (old[name], new[name]) {
      case (nil, _?): (name, "\(name) is new")
      case (_?, nil): (name, "\(name) is gone")
      case (let before?, let after?) where before != after: (name, "\(name) was changed")
      default: nil
      }
    }
  }

  private func figures(_ current: RunbookFacts, _ tolerance: Tolerance) -> [Stale] {
    var result: [Stale] = []
    for service in scopeServices {
      let (old, new) = (facts.figures[service] ?? .init(), current.figures[service] ?? .init())
      for (name, before, after) in [
        ("may be lost at worst", old.rpoAtWorst, new.rpoAtWorst),
        ("predicted time", old.rtoPredicted, new.rtoPredicted),
        ("time in the newest drill", old.rtoMeasured, new.rtoMeasured),
      ] {
        guard let words = Self.moved(before, after, tolerance) else { continue }
        result.append(Stale(.figure, service, "\(service), \(name): \(words)"))
      }
      if old.hasFailed != new.hasFailed {
        result.append(
          Stale(
            .figure, service,
            new.hasFailed
              ? "\(service) did not come back in \(new.provenBy ?? "a drill")" : "\(service) comes back again"))
      }
      if old.provenBy == nil, new.provenBy != nil, !new.hasFailed {
        result.append(Stale(.figure, service, "\(service) was shown to come back, by \(new.provenBy ?? "")"))
      }
    }
    return result
  }

  private var scopeServices: [String] { Set(scopes.flatMap(\.serviceNames)).sorted() }

  static func moved(_ before: Double?, _ after: Double?, _ tolerance: Tolerance) -> String? {
    switch (before, after) {
    case (nil, nil): return nil
    case (nil, let after?): return "never known, now \(Duration.seconds(after).brief)"
    case (let before?, nil): return "\(Duration.seconds(before).brief) before, now unknown"
    case (let before?, let after?):
      guard Lesson.isMoved(before, after, share: tolerance.share, seconds: tolerance.seconds) else { return nil }
      return "\(Duration.seconds(before).brief) before, now \(Duration.seconds(after).brief)"
    }
  }

  private func texts(_ found: [String: String]) -> [Stale] {
    files.sorted { $0.key < $1.key }.compactMap { name, digest in
      guard let text = found[name] else { return Stale(.text, name, "\(name) is gone") }
      return Digest.of(Notes.without(text)) == digest
        ? nil : Stale(.text, name, "\(name) was changed by hand, outside of its notes")
    }
  }

  private func proofs(_ now: Timestamp, _ figures: [String: RunbookFacts.Figures]) -> [Stale] {
    scopeServices.compactMap { service in
      guard let known = figures[service], let until = known.provenUntil, until < now, !known.hasFailed else {
        return nil
      }
      return Stale(.proof, service, "\(service) is unproven since \(until.format(fractionDigits: 0)): practise again")
    }
  }
}
