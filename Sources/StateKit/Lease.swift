import Core

/// Who makes a claim: host, boot and process, or a controller's name. Tells two claimants apart; says nothing of rights.
package struct Holder: Hashable, Sendable, Codable, CustomStringConvertible, ExpressibleByStringLiteral {
  package let text: String

  package init(_ text: String) { self.text = text }

  package init(stringLiteral value: String) { text = value }

  package var description: String { text }

  package init(from decoder: any Decoder) throws { text = try decoder.singleValueContainer().decode(String.self) }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(text)
  }
}

/// The right to act on one run, until it expires or somebody with a higher fence takes over.
package struct Lease: Sendable, Equatable {
  package var run: RunID
  package var holder: Holder
  package var fence: Fence
  /// How long it lasts without being renewed.
  package var period: Duration
  package var expiresAt: Timestamp

  package init(run: RunID, holder: Holder, fence: Fence, period: Duration, expiresAt: Timestamp) {
    (self.run, self.holder, self.fence, self.period, self.expiresAt) = (run, holder, fence, period, expiresAt)
  }
}
