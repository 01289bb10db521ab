import Foundation
import IO
import TestSupport
import Testing

@testable import Catalog

@Suite("Pages")
struct PageTests {
  @Test func `every relative link leads to a file, and to a heading in it`() throws {
    for page in try Pages.all() {
      let text = try Pages.prose(page).joined(separator: "\n")
      let folder = URL(filePath: "/" + page).deletingLastPathComponent()
      for match in text.matches(of: /\]\(([^)\s]+)\)/) {
        let link = String(match.1)
        if link.contains("://") { continue }
        let parts = link.split(separator: "#", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        let target = parts[0].isEmpty ? page : String(folder.appending(path: parts[0]).standardized.path.dropFirst())
        guard Pages.exists(target) else {
          Issue.record("\(page): there is no \(link)")
          continue
        }
        guard parts.count == 2 else { continue }
        #expect(try Pages.anchors(of: target).contains(parts[1]), "\(page): \(target) has no heading for #\(parts[1])")
      }
    }
  }

  @Test func `every page can be reached from the index`() throws {
    let index = try Pages.text("docs/README.md")
    for page in try Pages.all() where page != "README.md" && page != "docs/README.md" {
      #expect(index.contains("](\(page.dropFirst("docs/".count)))"), "docs/README.md doesn't link \(page)")
    }
  }

  @Test func `the first catalog is the one a test resolves`() throws {
    #expect(try Pages.text("README.md").contains("```yaml\n\(CatalogReference.smallest)\n```"))
  }

  @Test(.timeLimit(.minutes(10))) func `getting started works as it is written`() throws {
    let said = try walk("docs/getting-started.md", "getting-started", atLeast: 6)
    #expect(said.contains("every-order-has-its-receipt"))
  }

  @Test(.timeLimit(.minutes(10))) func `a redacted copy is made as it is written`() throws {
    let said = try walk("docs/operating/redaction.md", "redaction", atLeast: 4)
    #expect(said.contains("found none") && said.contains("plan: decide"), "\(said)")
  }

  @Test(.timeLimit(.minutes(10))) func `a rollout goes as it is written`() throws {
    let said = try walk("docs/operating/rollout.md", "rollout", atLeast: 4)
    #expect(said.contains("R-052") && said.contains("replayed to the same decisions"), "\(said.suffix(3000))")
  }

  /// Runs every block of a page that is marked, one after the other, in one shell and an empty directory.
  private func walk(_ page: String, _ mark: String, atLeast count: Int) throws -> String {
    let blocks = try Pages.blocks(of: page, marked: mark)
    try #require(blocks.count >= count)
    let program = try #require(try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"))
    let directory = try TemporaryDirectory(mark)
    let numbered = blocks.enumerated().map { ": block \($0 + 1)\necho '== block \($0 + 1)'\n\($1)\n" }
    let script = directory.file("walk.sh")
    try numbered.joined().write(toFile: script, atomically: true, encoding: .utf8)
    try FileManager.default.createDirectory(atPath: directory.file("walk"), withIntermediateDirectories: false)

    let bash = Process()
    bash.executableURL = URL(filePath: "/usr/bin/env")
    bash.arguments = ["bash", "-euo", "pipefail", script]
    bash.currentDirectoryURL = URL(filePath: directory.file("walk"))
    bash.environment = [
      "PATH": "\(Files.parent(of: program)):/usr/local/bin:/usr/bin:/bin:/usr/sbin", "HOME": directory.path,
      "LC_ALL": "C.UTF-8",
    ]
    let log = directory.file("walk.log")
    try "".write(toFile: log, atomically: true, encoding: .utf8)
    let output = try FileHandle(forWritingTo: URL(filePath: log))
    (bash.standardOutput, bash.standardError, bash.standardInput) = (output, output, FileHandle.nullDevice)
    try bash.run()
    bash.waitUntilExit()
    let said = try String(contentsOfFile: log, encoding: .utf8)
    #expect(bash.terminationStatus == 0, "\(said.suffix(3000))")
    return said
  }
}
