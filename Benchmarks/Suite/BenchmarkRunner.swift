import Core
import IO

package enum BenchmarkRunner {
  /// Runs one benchmark in a directory of its own, which is removed afterwards.
  ///
  /// - Parameter parent: Where the directory goes; where programs keep temporary files if `nil`.
  package static func run(
    _ benchmark: any Benchmark.Type, scale: BenchmarkScale, below parent: String? = nil,
    time: any Timekeeper = SystemTime(), options: [String: String] = [:]
  ) async throws -> [BenchmarkRow] {
    let directory = "\(parent ?? "/tmp")/salvor-bench-\(benchmark.name)-\(time.now().nanoseconds)"
    try await BlockingPool.shared.run { () throws(SystemFailure) in try Files.createDirectory(directory) }
    do {
      let rows = try await benchmark.run(
        BenchmarkContext(scale: scale, directory: directory, time: time, options: options))
      await remove(directory)
      return rows
    } catch {
      await remove(directory)
      throw error
    }
  }

  package static func write(_ rows: [BenchmarkRow], to path: String) throws {
    try Files.replace(path, with: BenchmarkReport.json(rows))
  }

  private static func remove(_ directory: String) async {
    await BlockingPool.shared.run { try? Files.removeTree(directory) }
  }
}
