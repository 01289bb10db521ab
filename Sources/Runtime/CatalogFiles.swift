import Catalog
import Core
import IO

/// A catalog and the files it was read from.
package struct LoadedCatalog: Sendable {
  package var catalog: Catalog
  package var files: [SourceFile]
  package var diagnostics: [Diagnostic]
  /// The same files by their path below the catalog's folder, as they travel with a point.
  package var travelling: [TreePath: [UInt8]]
}

package enum CatalogFiles {
  /// Reads a file, or every `*.yaml` and `*.yml` below a folder.
  package static func read(_ path: String, pool: BlockingPool) async throws(AnyFailure) -> [SourceFile] {
    do {
      return try await pool.run {
        guard Files.exists(path) else { throw CatalogFilesError.missing(path) }
        guard Files.isDirectory(path) else { return [try source(path)] }
        var files: [SourceFile] = []
        try collect(path, depth: 0, into: &files)
        guard !files.isEmpty else { throw CatalogFilesError.empty(path) }
        return files
      }
    } catch {
      throw AnyFailure(error)
    }
  }

  private static func collect(_ directory: String, depth: Int, into files: inout [SourceFile]) throws {
    guard depth < 32 else { throw CatalogFilesError.tooDeep(directory) }
    for name in try Files.names(in: directory) {
      let text = name.lossyText
      guard !text.hasPrefix(".") else { continue }
      let path = "\(directory)/\(text)"
      if Files.isDirectory(path) {
        try collect(path, depth: depth + 1, into: &files)
      } else if text.hasSuffix(".yaml") || text.hasSuffix(".yml") {
        files.append(try source(path))
      }
    }
  }

  private static func source(_ path: String) throws -> SourceFile {
    let bytes = try Files.read(path, limitBytes: 256 << 20)
    guard let text = String(validating: bytes, as: UTF8.self) else { throw CatalogFilesError.notText(path) }
    return SourceFile(path: path, text: text)
  }

  /// Reads, checks and resolves.
  ///
  /// - Throws: ``CatalogError`` with every problem, or why a file can't be read.
  package static func load(_ path: String, pool: BlockingPool) async throws(AnyFailure) -> LoadedCatalog {
    try resolve(try await read(path, pool: pool), below: path)
  }

  /// - Parameter root: What the files' paths begin with; cut off where they travel with a point.
  package static func resolve(_ files: [SourceFile], below root: String) throws(AnyFailure) -> LoadedCatalog {
    let resolution = Catalog.resolve(files, drivers: Registry.schemas)
    do {
      var travelling: [TreePath: [UInt8]] = [:]
      for file in files {
        let isBelow = file.path.hasPrefix(root + "/")
        let relative = isBelow ? String(file.path.dropFirst(root.count + 1)) : Files.last(of: file.path)
        travelling[TreePath(relative)] = Array(file.text.utf8)
      }
      return LoadedCatalog(
        catalog: try resolution.get(), files: files, diagnostics: resolution.diagnostics, travelling: travelling)
    } catch {
      throw AnyFailure(error)
    }
  }
}

package enum CatalogFilesError: Failure {
  case missing(String)
  case empty(String)
  case tooDeep(String)
  case notText(String)

  package var report: Report {
    switch self {
    case .missing(let path):
      Report("CATALOG-001", "there is no catalog at \(path)")
        .remedy("write one with `salvor init`, or name it with --catalog or SALVOR_CATALOG")
    case .empty(let path):
      Report("CATALOG-002", "\(path) has no .yaml or .yml file").remedy("write one with `salvor init`")
    case .tooDeep(let path):
      Report("CATALOG-003", "\(path) lies too many folders deep").remedy("flatten the catalog's folder")
    case .notText(let path): Report("CATALOG-004", "\(path) is not UTF-8 text").remedy("save it as UTF-8")
    }
  }
}
