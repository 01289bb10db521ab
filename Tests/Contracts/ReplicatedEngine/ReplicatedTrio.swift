import Core
import DriverKit

/// Three servers of a kind on loopback, `a`, `b` and `c`, as ``EnginePromise`` tries them: at first `a` is the primary, the
/// others follow it, and a write is acknowledged once one of them has it.
package protocol ReplicatedTrio: Sendable {
  /// - Parameter isBounded: A write is acknowledged when the primary has it.
  static func start(isBounded: Bool) async throws -> Self

  func engine(_ member: MemberName) -> any ReplicatedEngine

  /// Writes a key for good.
  ///
  /// - Returns: Whether the write was acknowledged as the policy says, within a few seconds.
  func write(_ key: String, on member: MemberName) async throws -> Bool

  /// The keys there are, as somebody sees who reads from that member.
  func keys(on member: MemberName) async throws -> Set<String>

  /// Ends the server as a crash would.
  func crash(_ member: MemberName) async throws

  /// Starts a crashed server as its own machine would, without an agent.
  func restart(_ member: MemberName) async throws

  /// Where the member's data is.
  func dataDirectory(of member: MemberName) -> String

  /// Whether a standby that was started anew still knows how much it has.
  static var knowsPositionAfterStart: Bool { get }

  func end() async
}

extension ReplicatedTrio {
  package static var members: [MemberName] { ["a", "b", "c"] }
}
