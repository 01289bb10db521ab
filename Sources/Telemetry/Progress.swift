/// How far something has come. Values are running totals, never differences.
package struct Progress: Sendable, Equatable, Codable {
  /// What is being done, in a word or two: `copy`, `replay WAL`.
  package var phase: String
  package var doneBytes: Int64?
  /// `nil` while nobody knows.
  package var totalBytes: Int64?
  package var doneItems: Int64?
  package var totalItems: Int64?

  package init(
    _ phase: String, doneBytes: Int64? = nil, totalBytes: Int64? = nil, doneItems: Int64? = nil,
    totalItems: Int64? = nil
  ) {
    (self.phase, self.doneBytes, self.totalBytes) = (phase, doneBytes, totalBytes)
    (self.doneItems, self.totalItems) = (doneItems, totalItems)
  }

  /// 0 to 1, by bytes or else by items; `nil` if the total isn't known.
  package var fraction: Double? {
    func ratio(_ done: Int64?, _ total: Int64?) -> Double? {
      guard let done, let total, total > 0 else { return nil }
      return min(1, max(0, Double(done) / Double(total)))
    }
    return ratio(doneBytes, totalBytes) ?? ratio(doneItems, totalItems)
  }
}

/// Takes progress from wherever it is made; called from any thread, often, and must not wait.
package typealias ProgressSink = @Sendable (Progress) -> Void
