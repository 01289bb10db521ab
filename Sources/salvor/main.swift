import CLI
import Foundation

exit(await SalvorCommand.main(arguments: Array(CommandLine.arguments.dropFirst())))
