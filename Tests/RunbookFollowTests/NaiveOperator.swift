import Core
import Foundation
import IO
import TestSupport

/// Somebody who knows nothing but what the page says: types each block as it stands, looks at the exit status and at what is
/// printed, and goes where the first row that fits sends them.
struct NaiveOperator {
  struct Step {
    var id: String
    var command: String?
    var fillIns: [String] = []
    var rows: [Row] = []
  }

  struct Row {
    var condition: String
    var target: String
  }

  struct Lost: Error, CustomStringConvertible {
    var description: String
  }

  let steps: [String: Step]
  /// What the shell has at first.
  let environment: [String: String]
  /// What somebody who was there knows: rows without an exit status are chosen by it.
  let knows: [String]
  private let directory: TemporaryDirectory

  init(page: String, path: String, knows: [String], fillIns: [String: String] = [:]) throws {
    steps = Self.parse(page)
    (self.knows, directory) = (knows, try TemporaryDirectory("operator"))
    environment = ["PATH": path, "HOME": directory.path, "TMPDIR": directory.path, "LC_ALL": "C.UTF-8"].merging(fillIns)
    { $1 }
  }

  // MARK: Reading

  static func parse(_ page: String) -> [String: Step] {
    var steps: [String: Step] = [:]
    var (anchor, current): (String?, Step?) = (nil, nil)
    var (fence, block): (String?, [String]) = (nil, [])
    for line in page.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) {
      if let open = fence {
        if line == open {
          if current?.command == nil { current?.command = block.joined(separator: "\n") }
          (fence, block) = (nil, [])
        } else {
          block.append(line)
        }
      } else if line.hasPrefix("```") {
        if line.hasSuffix("sh") { fence = String(line.prefix { $0 == "`" }) } else { current = nil }
      } else if line.hasPrefix("<a id=\"") {
        if let done = current { steps[done.id] = done }
        (anchor, current) = (String(line.dropFirst(7).prefix { $0 != "\"" }), nil)
      } else if line.hasPrefix("### "), let id = anchor {
        (current, anchor) = (Step(id: id), nil)
      } else if line.hasPrefix("#") {
        if let done = current { steps[done.id] = done }
        current = nil
      } else if line.hasPrefix("- **fill in:** `") {
        current?.fillIns.append(String(line.dropFirst(16).prefix { $0 != "`" }))
      } else if line.hasPrefix("| "), let row = row(line) {
        current?.rows.append(row)
      }
    }
    if let done = current { steps[done.id] = done }
    return steps
  }

  private static func row(_ line: String) -> Row? {
    guard let link = line.range(of: "](#", options: .backwards), let middle = line.range(of: " | ") else { return nil }
    return Row(
      condition: String(line[line.index(line.startIndex, offsetBy: 2)..<middle.lowerBound]),
      target: String(line[link.upperBound...].prefix { $0 != ")" }))
  }

  // MARK: Doing

  /// From a step to the end.
  ///
  /// - Returns: The steps, in the order in which they were done.
  @discardableResult
  func follow(from first: String) async throws -> [String] {
    var (id, done) = (first, [String]())
    while id != "end" {
      guard let step = steps[id] else { throw Lost(description: "there is no step \(id), after \(done)") }
      done.append(id)
      guard done.count(where: { $0 == id }) < 3 else { throw Lost(description: "going round in circles: \(done)") }
      for name in step.fillIns where environment[name] == nil {
        throw Lost(description: "step \(id) wants \(name), which nobody told")
      }
      var ran: CommandRun?
      if let command = step.command { ran = try await type(command) }
      guard let row = step.rows.first(where: { fits($0.condition, ran) }) else {
        throw Lost(description: "no row of \(id) fits: \(ran.map { "\($0)" } ?? "nothing was typed")")
      }
      id = row.target
    }
    return done
  }

  /// One block in the shell everything is typed into: what was exported, and where one stands, stays.
  private func type(_ command: String) async throws -> CommandRun {
    let (kept, place) = (directory.file("exported"), directory.file("place"))
    let script = """
      if [ -e \(kept) ]; then . \(kept); cd "$(cat \(place))"; fi
      \(command)
      typed=$?
      export -p > \(kept); pwd > \(place)
      exit $typed
      """
    return try await CommandRun(["/bin/sh", "-c", script], in: directory.path, environment: environment)
  }

  private func fits(_ condition: String, _ ran: CommandRun?) -> Bool {
    if condition == "any other exit status" { return ran != nil }
    guard condition.hasPrefix("exit status ") else { return knows.contains { condition.contains($0) } }
    guard let ran else { return false }
    let parts = condition.components(separatedBy: ", prints `")
    let statuses = parts[0].split(separator: "`").compactMap { Int32($0) }
    let said = ran.output + ran.errors
    return statuses.contains(ran.status) && parts.dropFirst().allSatisfy { said.contains($0.prefix { $0 != "`" }) }
  }
}
