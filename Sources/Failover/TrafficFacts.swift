import Core
import StateKit

/// What a router said after it was told who serves.
package struct TrafficFacts: Sendable, Equatable, Codable {
  package var route: String
  /// Under which it was told.
  package var epoch: Fence
  /// Who gets what comes new, by its own answer; `nil`: it didn't answer, and nobody knows.
  package var open: [MemberName]?
  /// Why it isn't as it was told.
  package var why: String?

  package init(route: String, epoch: Fence, open: [MemberName]?, why: String? = nil) {
    (self.route, self.epoch, self.open, self.why) = (route, epoch, open, why)
  }

  /// Why not all of it goes to `name` under `epoch`; `nil` if it does.
  package func objection(_ name: MemberName, _ epoch: Fence) -> FailoverReason? {
    if self.epoch == epoch, open == [name] { return nil }
    let known = open.map { $0.isEmpty ? "goes nowhere" : "goes to \($0.map(\.text).joined(separator: ", "))" }
    let state = self.epoch == epoch ? known ?? "isn't known" : "hasn't been told"
    return FailoverReason("route \(route) \(state)\(why.map { ": \($0)" } ?? "")")
  }
}
