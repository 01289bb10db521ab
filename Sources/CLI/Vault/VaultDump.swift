import ArgumentParser
import Console
import Core
import Foundation
import IO
import Vault

extension VaultCommand {
  struct Dump: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "dump", abstract: "Write a file of a snapshot, or a directory as an archive, to standard output.",
      discussion: """
        Every piece is verified before it is written. An archive has owners, modes, times to the nanosecond, links, devices \
        and extended attributes; a file with several names is in it once for each. Sockets are left out, and said.

        EXAMPLES
          salvor vault dump latest /etc/passwd
          salvor vault dump 40dc1520 /var/backups/db.sql | psql
          salvor vault dump latest /etc | tar -x --xattrs -C /tmp/out
        """)

    enum Archive: String, CaseIterable, ExpressibleByArgument { case tar }

    @Argument(help: "The first digits of an id, or latest.") var snapshot: String
    @Argument(help: "The path of a file or directory in the snapshot; / for all of it.") var file: String
    @Option(name: .shortAndLong, help: "How a directory is written: tar.") var archive: Archive = .tar
    @OptionGroup var filter: SnapshotFilter
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      if isatty(1) == 1 {
        standardError("the file is written to the terminal; bytes that are no text may confuse it\n")
      }
      let command = self
      let skipped = try await options.locked(startsEarly: true) { repository in
        let stored = try await command.filter.find(command.snapshot, in: repository)
        let tree = SnapshotTree(reader: repository, root: stored.snapshot.tree)
        let path = TreePath(command.file)
        let node = try await tree.node(at: path)
        if let node, node.metadata.kind.isRegular {
          try await Self.write(node, of: repository)
          return 0
        }
        if let node, !node.metadata.kind.isDirectory { throw TreeError.notRegular(path) }
        return try await Self.archive(tree, path, node, repository)
      }
      if skipped > 0 { standardError("note: \(skipped.of("socket")) left out: tar can't hold them\n") }
    }

    /// - Returns: How many entries tar can't hold.
    private static func archive(
      _ tree: SnapshotTree, _ path: TreePath, _ node: TreeNode?, _ repository: Repository
    ) async throws -> Int {
      var skipped = 0
      var entries = try await tree.allNodes(below: path).map { (path.appending($0.path), $0.node) }
      if let node { entries.insert((path, node), at: 0) }
      for (place, node) in entries {
        guard let header = TarArchive.header(place, node) else {
          skipped += 1
          continue
        }
        // An archive can't take back a size that it has told.
        if node.metadata.kind.isRegular { try check(node, at: place, repository) }
        try output(header)
        guard node.metadata.kind.isRegular else { continue }
        try await write(node, of: repository)
        try output(TarArchive.padding(after: node.metadata.size))
      }
      try output(TarArchive.end)
      return skipped
    }

    private static func check(_ node: TreeNode, at path: TreePath, _ repository: Repository) throws(TreeError) {
      var total: Int64 = 0
      for id in node.content {
        guard let length = repository.length(.data, id) else { throw .blobMissing(id, path) }
        total += Int64(length)
      }
      guard total == node.metadata.size else {
        throw .malformed(why: "the blobs of '\(path)' do not add up to its size", offset: 0)
      }
    }

    private static func write(_ node: TreeNode, of repository: Repository) async throws {
      for id in node.content { try output(try await repository.load(.data, id)) }
    }

    /// A reader that went away ends it: nobody wants the rest.
    private static func output(_ bytes: [UInt8]) throws {
      try FileHandle.standardOutput.write(contentsOf: Data(bytes))
    }
  }
}
