/// What one simulated run came to.
package struct SimulatedOutcome: Sendable {
  package var seed: UInt64 = 0
  package var topology = ""
  package var faults: [SimulatedFault] = []
  package var violations: [String] = []
  package var failures = 0
  package var failovers = 0
  package var acknowledged = 0
  package var lost = 0
  /// How long before the last acknowledgement the oldest lost write was acknowledged.
  package var lossMicroseconds: Int64 = 0
  package var splitBrains = 0
  /// Longest time without an acknowledgement.
  package var outageMicroseconds: Int64 = 0
  package var decisions = 0
  package var digest: UInt64 = 0
  /// What happened, if it was asked for.
  package var trace: [String] = []
}
